package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// namesPart is the card's name servers: the forwarder for the host, and the
// resolver of the card's own programs.
type namesPart struct {
	idle
	*env
	ports    *portsPart
	firewall *firewallPart
	dns      *forwarder

	updating sync.Mutex // one change of name servers at a time

	mu      sync.Mutex // guards what follows
	given   []netip.Addr
	search  []string
	written string // the last content of Options.Resolv
}

func newNamesPart(e *env, ports *portsPart, fire *firewallPart) *namesPart {
	return &namesPart{
		env: e, ports: ports, firewall: fire, dns: newForwarder(e.log),
		given: e.conf.DNS, search: e.conf.Search,
	}
}

func (n *namesPart) start(context.Context) { n.update() }

func (n *namesPart) listeners() []listener { return []listener{{"dns", dnsPort, n.dns.listen}} }

func (n *namesPart) plan(now, next *control.Config) ([]step, error) {
	if slices.Equal(now.DNS, next.DNS) && slices.Equal(now.Search, next.Search) {
		return nil, nil
	}
	return []step{{
		fmt.Sprintf("name servers %v, search %v", next.DNS, next.Search),
		func() error { n.set(next); return nil },
		func() error { n.set(now); return nil },
	}}, nil
}

func (n *namesPart) set(c *control.Config) {
	n.mu.Lock()
	n.given, n.search = c.DNS, c.Search
	n.mu.Unlock()
	n.update()
}

// servers are the upstreams and the search list: the configured ones, else
// what the ports know.
func (n *namesPart) servers() (servers []netip.Addr, search []string) {
	known, learned := n.ports.servers()
	n.mu.Lock()
	servers, search = n.given, n.search
	n.mu.Unlock()
	if len(servers) == 0 {
		servers = slices.DeleteFunc(known, n.own)
	}
	if len(search) == 0 {
		search = learned
	}
	return servers, search
}

// own reports whether an address is on a link. A forwarder that asks itself never
// answers, and a DHCP server may say anything.
func (n *namesPart) own(s netip.Addr) bool {
	for _, l := range n.config().Links {
		if slices.ContainsFunc(l.Card, func(p netip.Prefix) bool { return p.Contains(s) }) {
			return true
		}
	}
	return false
}

// update follows what the ports know. One at a time: when two ports learn
// something at once, the earlier update must not overwrite the later one.
func (n *namesPart) update() {
	n.updating.Lock()
	defer n.updating.Unlock()
	servers, search := n.servers()
	n.dns.set(servers)
	text := string(resolvConf(servers, search))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Resolv == "" || text == n.written {
		return
	}
	if err := writeResolv(n.opts.Resolv, servers, search); err != nil {
		n.log.Printf("resolver: %v", err)
		return
	}
	n.written = text
}

func (n *namesPart) health() []reason {
	servers, _ := n.servers()
	waiting := !n.firewall.stands() // a port may yet bring what is missing
	for _, p := range n.ports.health() {
		waiting = waiting || p.state == starting
	}
	return []reason{dnsHealth(servers, wantsDNS(n.config()), waiting, n.dns.silent(time.Now()))}
}

func (n *namesPart) status(out *cardpb.StatusResponse) {
	servers, _ := n.servers()
	for _, s := range servers {
		out.DnsServers = append(out.DnsServers, s.String())
	}
}

// dnsHealth asks the network nothing. It reports what is known, and for how
// long the servers have been silent when the host asked.
func dnsHealth(servers []netip.Addr, wanted, waiting bool, silent time.Duration) reason {
	r := reason{component: "dns", state: healthy}
	switch {
	case len(servers) > 0 && silent > 0:
		return r.with(degraded,
			fmt.Sprintf("for %v no name server has answered: %v", silent.Round(time.Second), servers))
	case len(servers) > 0:
		return r
	case !wanted:
		return r.with(healthy, "no name server is configured")
	case waiting:
		return r.with(starting, "no name server known yet")
	}
	return r.with(degraded, "no name server known: neither the configuration nor a port names one")
}

// wantsDNS reports whether anything in the configuration promises name servers.
func wantsDNS(c *control.Config) bool {
	return slices.ContainsFunc(c.Ports, func(p control.Port) bool { return p.HasDHCP() || p.HasRA() })
}
