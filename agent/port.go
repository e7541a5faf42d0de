package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// grace is how long a port may have no address before it is degraded.
const grace = 10 * time.Second

// port is one network port of the card. It remembers the addresses and routes that
// it added to its device, and touches no others.
type port struct {
	nl      *netlink.Handle
	sys     sysctls
	log     *Log
	metric  int            // of its routes; lower wins, the first port has the lowest
	guarded []netip.Prefix // the links' prefixes, which the wire must not claim
	changed func()         // called when its name servers may have changed
	// hostname is what DHCP servers are told.
	hostname func() string
	clock    leaseClock
	dhcpTry  time.Duration // the first wait for an answer; each further one is twice as long
	arpPause time.Duration

	// configuring is held while the device is changed, one change at a time.
	configuring sync.Mutex
	gone        bool // removed from the configuration
	static      []netip.Prefix
	routes      []route
	four, six   *worker // the DHCP and DHCPv6 clients, nil when there is none

	mu       sync.Mutex // guards what follows, for readers
	conf     control.Port
	up       bool  // configured at least once
	err      error // why it is not configured
	since    time.Time
	lease    *lease
	leaseErr error
	routers  routers
	router   chan struct{} // see routerComes
	lease6   *lease6
	// lease6Err is why there is no lease6 although routers say there is one.
	lease6Err error
	carrier   chan struct{} // closed and replaced when the carrier comes
}

func newPort(conf control.Port, nl *netlink.Handle, sys sysctls, log *Log) *port {
	return &port{
		nl: nl, sys: sys, log: log, conf: conf, metric: 100, changed: func() {},
		err: errStarting, since: time.Now(), carrier: make(chan struct{}), router: make(chan struct{}),
		hostname: func() string { return "" }, clock: bootClock{}, dhcpTry: dhcpFirstTry, arpPause: arpPause,
	}
}

// worker is a goroutine with an end that can be waited for.
type worker struct {
	stop context.CancelFunc
	done chan struct{}
}

func startWorker(ctx context.Context, f func(context.Context)) *worker {
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{cancel, make(chan struct{})}
	go func() {
		defer close(w.done)
		f(ctx)
	}()
	return w
}

func (w *worker) end() {
	w.stop()
	<-w.done
}

// configure makes the port what conf says. It changes only what differs. After an
// error the port may be half changed; configure with the former conf undoes that.
func (p *port) configure(ctx context.Context, conf control.Port) error {
	p.configuring.Lock()
	defer p.configuring.Unlock()
	if p.gone {
		return nil // keepTrying ends
	}
	err := p.change(ctx, conf)
	p.mu.Lock()
	p.err = err
	if err == nil {
		if !p.up || !slices.Equal(p.conf.Addresses, conf.Addresses) {
			p.since = time.Now()
		}
		p.up, p.conf = true, conf
	}
	p.mu.Unlock()
	p.changed()
	return err
}

func (p *port) change(ctx context.Context, conf control.Port) error {
	dev, err := nameDevice(p.nl, conf.MAC, conf.Name)
	if err != nil {
		return err
	}
	p.sys.forPort(conf.Name, conf.HasRA())
	if conf.MTU != 0 {
		if err := setMTU(p.nl, dev, conf.MTU); err != nil {
			return err
		}
	}
	if err := p.nl.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", conf.Name, err)
	}
	if err := p.setAddresses(dev, conf.Static()); err != nil {
		return err
	}
	if err := p.setRoutes(dev, conf.Gateway); err != nil {
		return err
	}
	p.setDHCP(ctx, conf)
	return nil
}

// setAddresses adds before it removes, so that the card always has an address
// while one is replaced.
func (p *port) setAddresses(dev netlink.Link, want []netip.Prefix) error {
	for _, a := range want {
		if slices.Contains(p.static, a) {
			continue
		}
		if err := addAddress(p.nl, dev, a, 0); err != nil {
			return err
		}
		p.static = append(p.static, a)
	}
	for _, a := range slices.Clone(p.static) {
		if slices.Contains(want, a) {
			continue
		}
		if err := removeAddress(p.nl, dev, a); err != nil {
			return err
		}
		p.static = slices.DeleteFunc(p.static, func(x netip.Prefix) bool { return x == a })
	}
	return nil
}

// setRoutes adds every wanted route, even one that should be there already: the
// kernel drops routes with the address that they depend on.
func (p *port) setRoutes(dev netlink.Link, gateways []netip.Addr) error {
	var want []route
	for _, g := range gateways {
		want = append(want, defaultRoute(g, p.metric))
	}
	for _, r := range slices.Clone(p.routes) {
		if slices.Contains(want, r) {
			continue
		}
		if err := removeRoute(p.nl, dev, r); err != nil {
			return err
		}
		p.routes = slices.DeleteFunc(p.routes, func(x route) bool { return x == r })
	}
	for _, r := range want {
		if err := addRoute(p.nl, dev, r); err != nil {
			return err
		}
		if !slices.Contains(p.routes, r) {
			p.routes = append(p.routes, r)
		}
	}
	return nil
}

// setDHCP starts and ends the clients. The one for DHCPv6 waits for a router
// that says there is a server.
func (p *port) setDHCP(ctx context.Context, conf control.Port) {
	p.four = runIf(ctx, conf.HasDHCP(), p.four, func(ctx context.Context) { p.runDHCP(ctx, conf.Name) })
	p.six = runIf(ctx, conf.HasRA(), p.six, func(ctx context.Context) { p.runDHCP6(ctx, conf.Name) })
}

// runIf starts or ends a worker if it is not as wanted.
func runIf(ctx context.Context, wanted bool, w *worker, f func(context.Context)) *worker {
	switch {
	case wanted && w == nil:
		return startWorker(ctx, f)
	case !wanted && w != nil:
		w.end()
		return nil
	}
	return w
}

// keepTrying configures the port until that succeeds once or ctx ends.
func (p *port) keepTrying(ctx context.Context) {
	pause := 10 * time.Millisecond
	said := ""
	for {
		err := p.configure(ctx, p.wanted())
		if err == nil {
			return
		}
		if err.Error() != said && pause > 200*time.Millisecond {
			said = err.Error()
			p.log.Sayf("port %s: %v", p.wanted().Name, err)
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (p *port) wanted() control.Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conf
}

// remove removes what the port added to its device and releases the DHCP lease.
func (p *port) remove() {
	p.configuring.Lock()
	defer p.configuring.Unlock()
	p.gone = true
	p.setDHCP(context.Background(), control.Port{})
	dev, err := p.nl.LinkByName(p.wanted().Name)
	if err != nil {
		return
	}
	for _, r := range p.routes {
		_ = removeRoute(p.nl, dev, r)
	}
	for _, a := range p.static {
		_ = removeAddress(p.nl, dev, a)
	}
	p.routes, p.static = nil, nil
	if err := p.nl.LinkSetDown(dev); err != nil {
		p.log.Printf("port %s: set down: %v", p.wanted().Name, err)
	}
}

// linkChanged tells the port about the carrier of a device.
func (p *port) linkChanged(name string, carrier bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == p.conf.Name && carrier {
		close(p.carrier)
		p.carrier = make(chan struct{})
		// The routers may be others now. What they said lives out its time.
		p.routers.seen, p.routers.managed, p.routers.other, p.routers.prefix = false, false, false, false
	}
}

func (p *port) carrierComes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carrier
}

// dns lists the name servers that this port knows, the configured ones first.
func (p *port) dns() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.conf.DNS)
	if p.lease != nil {
		out = append(out, p.lease.dns...)
	}
	out = append(out, p.routers.servers.values(p.clock.now())...)
	if p.lease6 != nil {
		out = append(out, p.lease6.dns...)
	}
	return out
}

// search is the list of domains that the port knows, of the first source that
// names one.
func (p *port) search() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease != nil && len(p.lease.search) > 0 {
		return p.lease.search
	}
	if list := p.routers.domains.values(p.clock.now()); len(list) > 0 {
		return list
	}
	if p.lease6 != nil {
		return p.lease6.search
	}
	return nil
}

func (p *port) health() reason {
	p.mu.Lock()
	conf, err, since := p.conf, p.err, p.since
	have := found{
		lease: p.lease, leaseErr: p.leaseErr, lease6Err: p.lease6Err, routers: p.routers,
		announced: p.clock.now() - p.routers.since,
	}
	p.mu.Unlock()
	r := reason{component: "port " + conf.Name, state: healthy}
	late := degraded
	if time.Since(since) < grace {
		late = starting
	}
	if errors.Is(err, errStarting) {
		return r.with(late, err.Error())
	}
	if err != nil {
		return r.with(degraded, err.Error())
	}
	dev, err := p.nl.LinkByName(conf.Name)
	if err != nil {
		return r.with(degraded, fmt.Sprintf("the device is gone: %v", err))
	}
	if dev.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return r.with(late, "no carrier")
	}
	have.addresses = addresses(p.nl, dev)
	return addressHealth(r, late, conf, have)
}
