package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/machine"
)

// world is what outlives a machine: the firmware at hand, the links and ports
// with their keepers, the host's routes, and the specification.
type world struct {
	name  string
	paths store.Paths
	parts *Parts
	board *board
	tasks sync.WaitGroup
	quit  chan struct{} // closed when the taking down begins

	// These are written before the first life, with mu held, and then only read.
	machine machine.Machine
	why     string // the machine was chosen
	given   store.Links
	image   Image
	links   []*device // the link where there is one, then exec
	ports   []*device
	agent   cardpb.CardClient
	hangUp  func()

	mu     sync.Mutex // guards what follows, and the parts of a device that change
	card   store.Card // with the specification of now
	config *control.Config

	steering sync.Mutex   // held while the host's routes are changed; guards what follows
	gone     bool         // the world is taken down: no route is made any more
	undo     func() error // takes back the default route
	goBack   func() error // takes back the way back of published services
}

func newWorld(c *store.Card, parts *Parts, b *board) *world {
	return &world{name: c.Name, paths: c.Paths, parts: parts, board: b, quit: make(chan struct{}), card: *c}
}

func (w *world) task(f func()) {
	w.tasks.Add(1)
	go func() {
		defer w.tasks.Done()
		f()
	}()
}

// cardNow is the card with its specification of now.
func (w *world) cardNow() *store.Card {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.card
	return &c
}

func (w *world) specNow() spec.Spec { return w.cardNow().Spec }

// configNow is what the card is told about itself.
func (w *world) configNow() *control.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.config
}

// adopt makes another specification the card's.
func (w *world) adopt(want spec.Spec, cfg *control.Config) {
	w.mu.Lock()
	w.card.Spec, w.config = want, cfg
	w.mu.Unlock()
}

// prepare makes everything that outlives the machine: firmware at hand, links,
// ports, keepers. What does not depend on each other is done at once.
func (w *world) prepare(ctx context.Context) error {
	want := w.specNow()
	w.board.setStage("choosing a machine")
	m, why, err := w.parts.Choose(ctx, want.Machine.Kind)
	if err != nil {
		return err
	}
	given, err := w.cardNow().Reserve(w.parts.Network.Prefixes())
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.machine, w.why, w.given = m, why, given
	w.mu.Unlock()
	w.board.setStage("checking where the ports lead")
	if err := checkPorts(w.parts.Network, want.Ports); err != nil {
		return err
	}
	w.board.setStage("firmware, links and ports")
	w.plan()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.bringImage(gctx) })
	for _, d := range w.links {
		g.Go(func() error { return w.openLink(gctx, d) })
	}
	for _, d := range w.ports {
		g.Go(func() error { return w.openPort(gctx, d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return w.afterNetwork(ctx)
}

func checkPorts(n Network, ports []spec.Port) error {
	for _, p := range ports {
		if err := n.CheckPort(p); err != nil {
			return fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return nil
}

// plan lists the card's devices in the order the card sees them.
func (w *world) plan() {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.card.Spec
	add := func(dev string, a *store.LinkAddrs) {
		if a != nil {
			w.links = append(w.links, &device{addrs: a, Device: Device{
				Name: dev, Socket: w.paths.Vhost(dev), MAC: w.card.MAC(dev), MTU: control.LinkMTU, Queues: s.Link.Queues,
				Spin: time.Duration(s.Link.Spin) * time.Microsecond,
			}})
		}
	}
	add(store.LinkDevice, w.given.Link)
	add(store.ExecDevice, w.given.Exec)
	for _, p := range s.Ports {
		dev := store.PortDevice(p.Name)
		w.ports = append(w.ports, &device{port: p, Device: Device{
			Name: dev, Socket: w.paths.Vhost(dev), MAC: w.card.MAC(dev), MTU: p.MTU, Queues: 1,
		}})
	}
}

func (w *world) bringImage(ctx context.Context) error {
	img, err := w.parts.Image(ctx, w.specNow().Firmware.Edition, w.machine.Kind())
	if err != nil {
		return fmt.Errorf("firmware: %w", err)
	}
	w.mu.Lock()
	w.image = img
	w.mu.Unlock()
	cfg, err := configOf(w.cardNow(), w.given, img)
	w.mu.Lock()
	w.config = cfg
	w.mu.Unlock()
	return err
}

// afterNetwork is what needs all of the network at hand.
func (w *world) afterNetwork(ctx context.Context) error {
	if err := w.rememberInterface(); err != nil {
		return err
	}
	keys, err := control.LoadClientKeys(w.paths.Keys())
	if err != nil {
		return err
	}
	agent, hangUp, err := w.parts.Control(netip.AddrPortFrom(w.address(), control.APIPort), keys, w.dial)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.agent, w.hangUp = agent, hangUp
	w.mu.Unlock()
	// Before the first packet: a path MTU that the host learns from a card that
	// is still starting stays for ten minutes.
	w.steer(ctx)
	return nil
}

// rememberInterface keeps the name that the kernel gave the link, so that the
// card has the same one at its next start.
func (w *world) rememberInterface() error {
	if w.links[0].Name != store.LinkDevice || w.given.Interface == w.links[0].Att.Interface {
		return nil
	}
	given := w.given
	given.Interface = w.links[0].Att.Interface
	w.mu.Lock()
	w.given = given
	w.mu.Unlock()
	return atomicfile.WriteJSON(w.paths.Links(), given)
}

// machineSpec is what the machine is told at each of its starts.
func (w *world) machineSpec() machine.Spec {
	m := w.specNow().Machine
	out := machine.Spec{
		Name: w.name, Dir: w.paths.Machine(), Kernel: w.image.Kernel, Initrd: w.paths.Initrd(),
		CPUs: m.CPUs, Memory: int64(m.Memory),
	}
	for _, d := range w.devices() {
		name := d.Name
		if d.port.Name != "" {
			name = d.port.Name
		}
		kind := machine.VhostUser
		if d.Socket == "" {
			kind = machine.UserNet
		}
		out.Nets = append(out.Nets, machine.Net{Name: name, MAC: d.MAC, MTU: d.MTU, Queues: d.Queues, Kind: kind, Socket: d.Socket})
	}
	return out
}

// devices are those of the card, in its order.
func (w *world) devices() []*device {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(append([]*device{}, w.links...), w.ports...)
}

// address is where the agent is reached.
func (w *world) address() netip.Addr { return w.links[0].addrs.Card()[0].Addr() }

// dial opens a connection to the card by way of the first link.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	att := w.firstAttachment()
	if att == nil {
		return nil, fmt.Errorf("card %s has no link yet", w.name)
	}
	conn, err := att.Dial(ctx, network, address)
	if err == nil {
		w.board.connected()
	}
	return conn, err
}

func (w *world) firstAttachment() *hostnet.Attachment {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.links) == 0 {
		return nil
	}
	return w.links[0].Att
}

// ping sends a packet of the link's full size and waits for it to come back.
func (w *world) ping(ctx context.Context) error {
	att := w.firstAttachment()
	if att.Ping == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return att.Ping(ctx, w.address())
}

// askLimit is how long the agent may take to say how it is.
const askLimit = 3 * time.Second

// ask asks the agent how it is, and tells the board.
func (w *world) ask(ctx context.Context) (*cardpb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	// control's client dials again and again, so that a SYN that a booting
	// card lost costs milliseconds, not TCP's second.
	reply, err := w.agent.Status(ctx, &cardpb.StatusRequest{HostTimeUnixNano: time.Now().UnixNano()})
	if err != nil {
		return nil, fmt.Errorf("the agent: %w", err)
	}
	w.board.hear(reply)
	return reply, nil
}

// takeDown undoes prepare, in the reverse of its order. It may be called after
// any part of it, and only when nothing else uses the world.
func (w *world) takeDown() error {
	errs := []error{w.unroute()}
	if w.hangUp != nil {
		w.hangUp()
	}
	for _, d := range w.devices() {
		errs = append(errs, w.shut(d))
	}
	if w.image.InUse != nil {
		errs = append(errs, w.image.InUse.Close())
	}
	errs = append(errs, hostnet.Clean(w.cardNow()))
	return errors.Join(errs...)
}
