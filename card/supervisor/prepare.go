package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/machine"
)

// prepare makes everything that outlives the machine: firmware at hand,
// links, ports, keepers. What does not depend on each other is done at once.
func (s *Supervisor) prepare(ctx context.Context) error {
	s.setStage("choosing a machine")
	m, why, err := s.parts.Choose(ctx, s.card.Spec.Machine.Kind)
	if err != nil {
		return err
	}
	s.change(func() { s.machine, s.why = m, why })
	if s.given, err = s.card.Reserve(s.parts.Network.Prefixes()); err != nil {
		return err
	}
	s.setStage("checking where the ports lead")
	if err := checkPorts(s.parts.Network, s.card.Spec.Ports); err != nil {
		return err
	}
	s.setStage("firmware, links and ports")
	s.plan()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.bringImage(gctx) })
	for _, d := range s.links {
		g.Go(func() error { return s.openLink(gctx, d) })
	}
	for _, d := range s.ports {
		g.Go(func() error { return s.openPort(gctx, d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.afterNetwork(ctx)
}

// plan lists the card's devices in the order the card sees them.
func (s *Supervisor) plan() {
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(dev string, a *store.LinkAddrs) {
		if a != nil {
			s.links = append(s.links, &device{addrs: a, Device: Device{
				Name: dev, Socket: s.card.Paths.Vhost(dev), MAC: s.card.MAC(dev), MTU: control.LinkMTU, Queues: s.card.Spec.Link.Queues,
				Spin: time.Duration(s.card.Spec.Link.Spin) * time.Microsecond,
			}})
		}
	}
	add(store.LinkDevice, s.given.Link)
	add(store.ExecDevice, s.given.Exec)
	for _, p := range s.card.Spec.Ports {
		dev := store.PortDevice(p.Name)
		s.ports = append(s.ports, &device{spec: p, attach: p.Attach.String(), Device: Device{
			Name: dev, Socket: s.card.Paths.Vhost(dev), MAC: s.card.MAC(dev), MTU: p.MTU, Queues: 1,
		}})
	}
}

func (s *Supervisor) bringImage(ctx context.Context) error {
	img, err := s.parts.Image(ctx, s.card.Spec.Firmware.Edition, s.machine.Kind())
	if err != nil {
		return fmt.Errorf("firmware: %w", err)
	}
	cfg, err := configOf(s.card, s.given, img)
	s.change(func() { s.image, s.config = img, cfg })
	return err
}

func (s *Supervisor) openLink(ctx context.Context, d *device) error {
	want := hostnet.LinkOptions{Queues: d.Queues, Addrs: *d.addrs}
	open := s.parts.Network.Exec
	if d.Name == store.LinkDevice {
		want.Interface, want.Prefer, open = s.card.Spec.Link.Interface, s.given.Interface, s.parts.Network.Link
	}
	att, err := open(ctx, want)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	s.mu.Lock()
	d.Att = att
	s.mu.Unlock()
	if att.Died != nil {
		s.task(func() { s.watchAttachment(d, att, d.Name, "`toe down` and `toe up` mend it") })
	}
	return s.keep(d)
}

// ownNetwork is what to know of QEMU's user network.
const ownNetwork = "QEMU's own user network, from which the card reaches services on this host's loopback (as 10.0.2.2); `apt install passt`, `toe down` and `toe up` keep it from that"

func (s *Supervisor) openPort(ctx context.Context, d *device) error {
	att, err := s.parts.Network.Port(ctx, d.spec, d.MAC, s.machine.Kind())
	if err != nil {
		return fmt.Errorf("port %s: %w", d.spec.Name, err)
	}
	if att == nil {
		d.Socket = "" // the machine's own network
		s.event("port %s: %s", d.spec.Name, ownNetwork)
		return nil
	}
	s.mu.Lock()
	d.Att = att
	s.mu.Unlock()
	if att.Died != nil {
		s.task(func() {
			s.watchAttachment(d, att, "port "+d.spec.Name, fmt.Sprintf("`toe reset %s` mends it", s.card.Name))
		})
	}
	if err := s.keep(d); err != nil {
		return err
	}
	if att.Renewed != nil {
		s.task(func() { s.renew(d, att) })
	}
	return nil
}

// renew hands a keeper what comes in place of a file whose other side has ended.
func (s *Supervisor) renew(d *device, att *hostnet.Attachment) {
	for {
		select {
		case <-s.downing():
			return
		case r, more := <-att.Renewed:
			if !more {
				return
			}
			s.mu.Lock()
			k, can := d.keeper.(interface{ Renew([]*os.File) error })
			s.mu.Unlock()
			if !can {
				r.File.Close()
				continue
			}
			if err := k.Renew([]*os.File{r.File}); err != nil {
				s.event("port %s: %v", d.spec.Name, err)
				continue
			}
			s.event("port %s: %v; started again, its connections are lost", d.spec.Name, r.Why)
		}
	}
}

// reopen makes the ports anew whose other end has died. It is for the time
// between two lives of the machine: a running one would lose its device.
func (s *Supervisor) reopen(ctx context.Context) error {
	for _, d := range s.ports {
		s.mu.Lock()
		dead, keeper, att := d.dead, d.keeper, d.Att
		s.mu.Unlock()
		if !dead {
			continue
		}
		if err := errors.Join(keeper.Close(), att.Detach()); err != nil {
			return fmt.Errorf("port %s: %w", d.spec.Name, err)
		}
		s.change(func() { d.dead, d.keeper, d.Att = false, nil, nil })
		s.trouble("port "+d.spec.Name, "")
		if err := s.openPort(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// keep starts the keeper of a device whose attachment is open.
func (s *Supervisor) keep(d *device) error {
	k, err := s.parts.Keeper(d.Device, func(text string) { s.event("%s: %s", d.Name, text) })
	if err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	s.mu.Lock()
	d.keeper = k
	s.mu.Unlock()
	s.task(func() {
		if err := k.Serve(context.Background()); err != nil {
			s.event("%s: %v", d.Name, err)
			s.trouble(d.Name, err.Error())
		}
	})
	return nil
}

// watchAttachment says when the other end of a link or port has died, and
// what mends that.
func (s *Supervisor) watchAttachment(d *device, att *hostnet.Attachment, what, mend string) {
	select {
	case err := <-att.Died:
		select {
		case <-s.downing():
			return
		default:
		}
		if err == nil {
			return // closed on purpose
		}
		s.event("%s: %v", what, err)
		s.trouble(what, fmt.Sprintf("%v; %s", err, mend))
		s.change(func() { d.dead = true })
	case <-s.downing():
	}
}

// afterNetwork is what needs all of the network at hand.
func (s *Supervisor) afterNetwork(ctx context.Context) error {
	if err := s.rememberInterface(); err != nil {
		return err
	}
	keys, err := control.LoadClientKeys(s.card.Paths.Keys())
	if err != nil {
		return err
	}
	agent, hangUp, err := s.parts.Control(netip.AddrPortFrom(s.address(), control.APIPort), keys, s.dial)
	s.change(func() { s.agent, s.hangUp = agent, hangUp })
	// Before the first packet: a path MTU that the host learns from a card that
	// is still starting stays for ten minutes.
	s.steer(ctx)
	return err
}

// rememberInterface keeps the name that the kernel gave the link, so that
// the card has the same one at its next start.
func (s *Supervisor) rememberInterface() error {
	if s.links[0].Name != store.LinkDevice || s.given.Interface == s.links[0].Att.Interface {
		return nil
	}
	s.given.Interface = s.links[0].Att.Interface
	return atomicfile.WriteJSON(s.card.Paths.Links(), s.given)
}

// spec is what the machine is told at each of its starts.
func (s *Supervisor) spec() machine.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.card.Spec.Machine
	sp := machine.Spec{
		Name: s.card.Name, Dir: s.card.Paths.Machine(), Kernel: s.image.Kernel, Initrd: s.card.Paths.Initrd(),
		CPUs: m.CPUs, Memory: int64(m.Memory),
	}
	for _, d := range append(append([]*device{}, s.links...), s.ports...) {
		name := d.Name
		if d.spec.Name != "" {
			name = d.spec.Name
		}
		sp.Nets = append(sp.Nets, machine.Net{Name: name, MAC: d.MAC, MTU: d.MTU, Queues: d.Queues, Socket: d.Socket})
	}
	return sp
}

func checkPorts(n Network, ports []spec.Port) error {
	for _, p := range ports {
		if err := n.CheckPort(p); err != nil {
			return fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return nil
}
