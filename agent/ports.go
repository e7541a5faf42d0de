package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// portsPart is the card's network ports. They come up behind the firewall:
// without one they stay down.
type portsPart struct {
	idle
	*env
	learned func() // called when the name servers of a port may have changed

	mu    sync.Mutex // guards ports
	ports []*port
}

func (ps *portsPart) list() []*port {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Clone(ps.ports)
}

func (ps *portsPart) start(ctx context.Context) {
	if err := listenAdvertisements(ctx, ps.advertised); err != nil {
		ps.log.Sayf("%v", err)
	}
	if err := ps.watchCarrier(ctx); err != nil {
		ps.log.Sayf("the carrier of the ports is not watched: %v", err)
	}
	ps.applying.Lock() // an Apply may have added some of them
	for _, conf := range ps.config().Ports {
		if ps.find(conf) == nil {
			ps.make(conf)
		}
	}
	ports := ps.list()
	ps.applying.Unlock()
	for _, p := range ports {
		ps.spawn(func() { p.keepTrying(ctx) })
	}
}

// make adds a port, still down. It gives the port a metric of its own, so that
// default routes out of two ports do not replace each other.
func (ps *portsPart) make(conf control.Port) *port {
	p := newPort(conf, ps.nl, ps.sys, ps.log)
	p.changed = ps.learned
	p.hostname = func() string { return ps.config().EffectiveHostname() }
	for _, l := range ps.config().Links {
		p.guarded = append(p.guarded, l.Card...)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for slices.ContainsFunc(ps.ports, func(x *port) bool { return x.metric == p.metric }) {
		p.metric += 10
	}
	ps.ports = append(ps.ports, p)
	return p
}

// advertised gives what a router advertised to the port that heard it.
func (ps *portsPart) advertised(ifindex int, a *advertisement) {
	dev, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return
	}
	for _, p := range ps.list() {
		if p.wanted().Name == dev.Name {
			p.advertise(a)
			return
		}
	}
}

// watchCarrier tells ports when their cable is plugged in.
func (ps *portsPart) watchCarrier(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 64)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			if ctx.Err() == nil && !errors.Is(err, unix.EAGAIN) {
				ps.log.Printf("netlink: %v", err)
			}
		},
	})
	if err != nil {
		return err
	}
	ps.spawn(func() {
		had := map[string]bool{}
		for u := range updates {
			name, carrier := u.Attrs().Name, u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0
			before, known := had[name]
			had[name] = carrier
			if known && before == carrier {
				continue
			}
			for _, p := range ps.list() {
				p.linkChanged(name, carrier)
			}
		}
	})
	return nil
}

func (ps *portsPart) plan(now, next *control.Config) ([]step, error) {
	var steps []step
	for _, o := range now.Ports {
		if portOf(next, o) < 0 {
			steps = append(steps, step{
				"port " + o.Name + " removed",
				func() error { ps.remove(o); return nil },
				func() error { return ps.set(o) },
			})
		}
	}
	for _, n := range next.Ports {
		i := portOf(now, n)
		if i < 0 {
			steps = append(steps, step{
				"port " + n.Name + " added",
				func() error { return ps.set(n) },
				func() error { ps.remove(n); return nil },
			})
			continue
		}
		if o := now.Ports[i]; !reflect.DeepEqual(o, n) {
			steps = append(steps, step{
				"port " + n.Name + " changed",
				func() error { return ps.set(n) },
				func() error { return ps.set(o) },
			})
		}
	}
	return steps, nil
}

// portOf finds the same port, by name and device, in another configuration.
func portOf(c *control.Config, p control.Port) int {
	same := func(x control.Port) bool { return x.Name == p.Name && x.MAC == p.MAC }
	return slices.IndexFunc(c.Ports, same)
}

func (ps *portsPart) find(conf control.Port) *port {
	for _, p := range ps.list() {
		if w := p.wanted(); w.Name == conf.Name && w.MAC == conf.MAC {
			return p
		}
	}
	return nil
}

// set makes a port what conf says. The port is added if it is not there.
func (ps *portsPart) set(conf control.Port) error {
	p := ps.find(conf)
	if p == nil {
		p = ps.make(conf)
	}
	return p.configure(ps.run, conf)
}

func (ps *portsPart) remove(conf control.Port) {
	p := ps.find(conf)
	if p == nil {
		return
	}
	p.remove()
	ps.mu.Lock()
	ps.ports = slices.DeleteFunc(ps.ports, func(x *port) bool { return x == p })
	ps.mu.Unlock()
	ps.learned()
}

func (ps *portsPart) rules(c *control.Config, r *rules) {
	for _, p := range c.Ports {
		r.ports = append(r.ports, p.Name)
	}
}

func (ps *portsPart) health() []reason {
	var out []reason
	for _, p := range ps.list() {
		out = append(out, p.health())
	}
	return out
}

func (ps *portsPart) status(out *cardpb.StatusResponse) {
	for _, p := range ps.config().Ports {
		out.Interfaces = append(out.Interfaces, interfaceStatus(ps.nl, p.Name, "port", p.MAC))
	}
}

// close removes every port, all at once: a DHCP lease is released on the way.
func (ps *portsPart) close() {
	var wg sync.WaitGroup
	for _, p := range ps.list() {
		wg.Go(p.remove)
	}
	wg.Wait()
}

// servers are the name servers that the ports know, in the order of the ports,
// and the search list of the first port that knows one.
func (ps *portsPart) servers() (servers []netip.Addr, search []string) {
	for _, p := range ps.list() {
		for _, s := range p.dns() {
			if !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
		if len(search) == 0 {
			search = p.search()
		}
	}
	return servers, search
}
