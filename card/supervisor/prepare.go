package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/machine"
)

// prepare makes everything that outlives the machine: firmware, links, ports,
// keepers, in parallel where it can.
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

// bringImage brings what the card starts: its flash, or an image.
func (w *world) bringImage(ctx context.Context) error {
	if flash, err := w.openFlash(ctx); err != nil || flash {
		return err
	}
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

// afterNetwork does what needs all of the network.
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
		Name: w.name, Dir: w.paths.Machine(), Kernel: w.imageNow().Kernel, Initrd: w.paths.Initrd(),
		Cmdline: w.flashNow().slotArgs(), CPUs: m.CPUs, Memory: int64(m.Memory), Disks: w.disks(),
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
		out.Nets = append(out.Nets, machine.Net{
			Name: name, MAC: d.MAC, MTU: d.MTU, Queues: d.Queues, Kind: kind, Socket: d.Socket,
		})
	}
	return out
}
