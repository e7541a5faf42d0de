// Package agent is the card's own program: it brings up links and ports,
// forwards, answers DNS, keeps the time, serves the control API and ssh, and
// says how the card is. As PID 1 it is the card's init too (see Init).
//
// The order of a start: the link and the control API first, for the host
// waits for them; then, all at once, the firewall and behind it the ports,
// ssh, DNS, the clock and the console.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// Action is how a run of the agent ends.
type Action string

// The ends of a run.
const (
	Stopped  Action = "stopped" // its context has ended
	Reboot   Action = "reboot"
	PowerOff Action = "power off"
)

// Options are what an agent needs from its surroundings.
type Options struct {
	Config  *control.Config
	Keys    control.Keys // the card's part
	Version string
	Image   string // of the firmware, as control.ImagePath has it; may be empty
	Log     *Log
	Sysctl  string // root of the kernel's settings, normally /proc/sys
	Resolv  string // the file of the card's own resolver, normally /etc/resolv.conf
	// SetHostname is sethostname(2) on a card.
	SetHostname func(name string) error
	// Modules is where the lists of kernel modules are, normally
	// /lib/modules; empty where everything is there already.
	Modules string
	// Linked is called when the links have been tried for the first time;
	// nil for nothing.
	Linked func()
}

// Agent is one run of a card.
type Agent struct {
	opts  Options
	log   *Log
	nl    *netlink.Handle
	sys   sysctls
	procs *procs
	fire  firewall
	dns   *forwarder
	clock *clock
	ssh   *sshServer
	links []*link
	ended chan Action
	wg    sync.WaitGroup
	run   context.Context // of the whole run, for what Apply starts

	applying sync.Mutex // one change of configuration at a time
	updating sync.Mutex // one change of name servers at a time

	mu       sync.Mutex // guards what follows
	conf     *control.Config
	ports    []*port
	fireErr  error
	guarding bool // the firewall stands, so ports may be up
	offload  offloader
	ready    time.Duration
	services map[string]error // what could not listen, by name
	resolv   string           // what was last written to Resolv
}

// New prepares an agent; nothing is touched before Run.
func New(opts Options) (*Agent, error) {
	if err := opts.Config.Validate(); err != nil {
		return nil, err
	}
	if opts.SetHostname == nil {
		opts.SetHostname = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	a := &Agent{
		opts: opts, log: opts.Log, conf: opts.Config, procs: newProcs(), fire: nftFirewall{},
		sys: sysctls{opts.Sysctl, opts.Log}, ended: make(chan Action, 1), services: map[string]error{},
	}
	a.offload.start = startOffload(opts)
	a.dns = newForwarder(a.log)
	a.clock = newClock(a.log)
	a.clock.servers = opts.Config.TimeServers
	ssh, err := newSSHServer(opts.Keys.SSHHostKey, a.procs, a.log)
	if err != nil {
		return nil, err
	}
	a.ssh = ssh
	return a, ssh.authorize(opts.Config.AuthorizedKeys)
}

// Run is the agent's life. It returns when ctx has ended or the host has
// asked for the card's end, with everything that it started ended and DHCP
// leases given back.
func (a *Agent) Run(ctx context.Context) (Action, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Stopped, fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	a.nl = nl
	server, err := newServer(a)
	if err != nil {
		return Stopped, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a.run = ctx
	a.sys.early(memory().total)
	a.startLinks(ctx, server)
	if a.opts.Linked != nil {
		a.opts.Linked()
	}
	a.spawn(func() { a.startRest(ctx) })
	a.spawn(func() { a.clock.run(ctx) })

	action := Stopped
	select {
	case <-ctx.Done():
	case action = <-a.ended:
	}
	cancel()
	server.close()
	a.ssh.close()
	a.endOffload()
	a.stopPorts()
	a.wg.Wait()
	return action, nil
}

func (a *Agent) spawn(f func()) {
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		f()
	}()
}

// end asks for the end of the run.
func (a *Agent) end(action Action) {
	select {
	case a.ended <- action:
	default: // it is ending already
	}
}

func (a *Agent) startLinks(ctx context.Context, server *server) {
	if lo, err := a.nl.LinkByName("lo"); err == nil {
		_ = a.nl.LinkSetUp(lo)
	}
	for _, conf := range a.conf.Links {
		a.links = append(a.links, newLink(conf, a.nl, a.sys))
	}
	for _, l := range a.links {
		if err := l.up(); err == nil {
			a.serveLink(ctx, l, server)
			continue
		}
		a.spawn(func() {
			if l.keepTrying(ctx, a.log) {
				a.serveLink(ctx, l, server)
			}
		})
	}
}

// serveLink opens every service on a link's addresses, the control API first.
func (a *Agent) serveLink(ctx context.Context, l *link, server *server) {
	listen := func(name string, port uint16, f func(context.Context, netip.AddrPort) error) {
		for _, p := range l.conf.Card {
			at := netip.AddrPortFrom(p.Addr(), port)
			err := f(ctx, at)
			a.mu.Lock()
			if err != nil {
				a.services[name+" "+at.String()] = err
			} else if a.ready == 0 {
				a.ready = uptime()
				a.log.Printf("the control API listens %v after the kernel's start", a.ready.Round(time.Millisecond))
			}
			a.mu.Unlock()
			if err != nil {
				a.log.Sayf("%s on %s: %v", name, l.conf.Name, err)
			}
		}
	}
	listen("control", control.APIPort, server.listen)
	a.spawn(func() {
		listen("ssh", sshPort, a.ssh.listen)
		listen("dns", dnsPort, a.dns.listen)
	})
}

// startRest brings up all that the host does not wait for. Ports come up
// only behind the firewall: without one the card stays closed, and says so.
func (a *Agent) startRest(ctx context.Context) {
	if err := a.opts.SetHostname(a.conf.EffectiveHostname()); err != nil {
		a.log.Sayf("host name %s: %v", a.conf.EffectiveHostname(), err)
	}
	if err := listenAdvertisements(ctx, a.advertised); err != nil {
		a.log.Sayf("%v", err)
	}
	if err := a.watchCarrier(ctx); err != nil {
		a.log.Sayf("carrier of ports is not watched: %v", err)
	}
	a.addPorts()
	a.sys.late(memory().total)
	for pause := 100 * time.Millisecond; !a.guard(); pause = min(2*pause, 5*time.Second) {
		if !sleep(ctx, pause) {
			return
		}
	}
	a.clearOffload()
	a.updateDNS()
	a.mu.Lock()
	ports := slices.Clone(a.ports)
	a.mu.Unlock()
	for _, p := range ports {
		a.spawn(func() { p.keepTrying(ctx) })
	}
	a.keepOffloading(ctx)
}

// addPorts makes the port objects, still down.
func (a *Agent) addPorts() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, conf := range a.conf.Ports {
		a.ports = append(a.ports, a.newPort(conf))
	}
	a.rankPorts()
}

func (a *Agent) newPort(conf control.Port) *port {
	p := newPort(conf, a.nl, a.sys, a.log)
	p.changed = a.updateDNS
	for _, l := range a.conf.Links {
		p.guarded = append(p.guarded, l.Card...)
	}
	return p
}

// rankPorts gives each new port a metric of its own, so that default routes
// out of two ports do not replace each other. The caller holds mu.
func (a *Agent) rankPorts() {
	used := map[int]bool{}
	for _, p := range a.ports {
		for used[p.metric] {
			p.metric += 10
		}
		used[p.metric] = true
	}
}

// guard puts the firewall of the present configuration into force.
func (a *Agent) guard() bool {
	a.applying.Lock()
	defer a.applying.Unlock()
	a.mu.Lock()
	r := rulesOf(a.conf)
	a.mu.Unlock()
	err := a.fire.apply(r)
	a.mu.Lock()
	first := a.fireErr == nil
	a.fireErr, a.guarding = err, err == nil
	a.mu.Unlock()
	if err == nil {
		a.log.Printf("firewall in force, %d ports behind it", len(r.ports))
	} else if first {
		a.log.Sayf("firewall: %v; ports stay down without it", err)
	}
	return err == nil
}

func rulesOf(c *control.Config) rules {
	r := rules{nat: c.NAT, ends: c.Endpoint()}
	for _, l := range c.Links {
		r.links = append(r.links, l.Name)
	}
	for _, p := range c.Ports {
		r.ports = append(r.ports, p.Name)
	}
	r.mdns = c.Endpoint() && c.Offload.MDNS
	for _, p := range c.Publish {
		s := service{unix.IPPROTO_TCP, p.Port}
		if p.Protocol == control.UDP {
			s.protocol = unix.IPPROTO_UDP
		}
		r.published = append(r.published, s)
	}
	return r
}

func (a *Agent) stopPorts() {
	a.applying.Lock() // an Apply under way ends first
	defer a.applying.Unlock()
	a.mu.Lock()
	ports := slices.Clone(a.ports)
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range ports {
		wg.Go(p.remove)
	}
	wg.Wait()
}

// advertised gives what a router said to the port that heard it.
func (a *Agent) advertised(ifindex int, servers []advertised) {
	dev, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return
	}
	a.mu.Lock()
	i := slices.IndexFunc(a.ports, func(p *port) bool { return p.wanted().Name == dev.Name })
	var p *port
	if i >= 0 {
		p = a.ports[i]
	}
	a.mu.Unlock()
	if p != nil {
		p.advertise(servers)
	}
}

// watchCarrier tells ports when their cable is plugged in.
func (a *Agent) watchCarrier(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 64)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			if ctx.Err() == nil && !errors.Is(err, unix.EAGAIN) {
				a.log.Printf("netlink: %v", err)
			}
		},
	})
	if err != nil {
		return err
	}
	a.spawn(func() {
		had := map[string]bool{}
		for u := range updates {
			name, carrier := u.Attrs().Name, u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0
			before, known := had[name]
			had[name] = carrier
			if known && before == carrier {
				continue
			}
			a.mu.Lock()
			ports := slices.Clone(a.ports)
			a.mu.Unlock()
			for _, p := range ports {
				p.linkChanged(name, carrier)
			}
		}
	})
	return nil
}

// nameServers are the upstreams in force: the configured ones, else all that
// the ports know.
func (a *Agent) nameServers() []netip.Addr {
	a.mu.Lock()
	conf, ports := a.conf, slices.Clone(a.ports)
	a.mu.Unlock()
	if len(conf.DNS) > 0 {
		return conf.DNS
	}
	var out []netip.Addr
	for _, p := range ports {
		for _, s := range p.dns() {
			if !slices.Contains(out, s) && !a.own(conf, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// own says whether an address is the card's: a forwarder that asks itself
// answers never, and a DHCP server may say anything.
func (a *Agent) own(conf *control.Config, s netip.Addr) bool {
	for _, l := range conf.Links {
		for _, p := range l.Card {
			if p.Contains(s) {
				return true
			}
		}
	}
	return false
}

// updateDNS follows what the ports know. One at a time: of two ports that
// learn something at once the later must not be overwritten by the earlier.
func (a *Agent) updateDNS() {
	a.updating.Lock()
	defer a.updating.Unlock()
	servers := a.nameServers()
	a.dns.set(servers)
	a.mu.Lock()
	defer a.mu.Unlock()
	search := a.conf.Search
	for _, p := range a.ports {
		if len(search) == 0 {
			search = p.search()
		}
	}
	text := string(resolvConf(servers, search))
	if a.opts.Resolv == "" || text == a.resolv {
		return
	}
	if err := writeResolv(a.opts.Resolv, servers, search); err != nil {
		a.log.Printf("resolver: %v", err)
		return
	}
	a.resolv = text
}
