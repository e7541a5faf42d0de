package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
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
	links   []*device // the link where there is one, then exec
	ports   []*device
	agent   cardpb.CardClient
	hangUp  func()

	mu      sync.Mutex // guards what follows, and the parts of a device that change
	image   Image      // what the card runs, or is about to
	flash   flashDisk
	renewal renewal
	card    store.Card // with the specification of now
	config  *control.Config

	steering sync.Mutex   // held while the host's routes are changed; guards what follows
	gone     bool         // the world is taken down: no more routes
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

// imageNow is what the card runs.
func (w *world) imageNow() Image {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.image
}

// adopt makes another specification the card's.
func (w *world) adopt(want spec.Spec, cfg *control.Config) {
	w.mu.Lock()
	w.card.Spec, w.config = want, cfg
	w.mu.Unlock()
}

// devices are those of the card, in its order.
func (w *world) devices() []*device {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(append([]*device{}, w.links...), w.ports...)
}

// address is where the agent is reached.
func (w *world) address() netip.Addr { return w.links[0].addrs.Card()[0].Addr() }

// dial opens a connection to the card through the first link.
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
	errs = append(errs, w.closeFlash(), w.closeRenewal(), w.imageNow().close())
	errs = append(errs, hostnet.Clean(w.cardNow()))
	return errors.Join(errs...)
}
