package control

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/toe-project/toe/feature"
)

// Bounds on one configuration: far above use, and low enough that a faulty
// program cannot make the card do unbounded work.
const (
	maxLinks   = 8
	maxPorts   = 32
	maxPerPort = 32
	maxServers = 16
	maxKeys    = 256
)

// reservedNames cannot be interfaces: two are the kernel's words in /proc/sys,
// one is the loopback.
var reservedNames = map[string]bool{"lo": true, "all": true, "default": true}

// Validate checks the whole configuration and reports every fault, up to 20,
// each with the field, the value and what is wanted.
func (c *Config) Validate() error {
	v := &validator{names: map[string]string{}, macs: map[string]string{}, own: map[netip.Addr]bool{}}
	v.identity(c)
	v.count("links", len(c.Links), 1, maxLinks)
	v.count("ports", len(c.Ports), 0, maxPorts)
	for i := range c.Links {
		v.link(fmt.Sprintf("links[%d]", i), &c.Links[i])
	}
	for i := range c.Ports {
		v.port(fmt.Sprintf("ports[%d]", i), &c.Ports[i])
	}
	v.offload(c)
	v.services(c)
	v.servers("dns", c.DNS)
	v.domains("search", c.Search)
	v.timeServers(c.TimeServers)
	v.keys(c.AuthorizedKeys)
	feature.Check("updates", c.Updates, v.bad)
	return errors.Join(v.errs...)
}

type validator struct {
	errs  []error
	names map[string]string // interface name to the field that has it
	macs  map[string]string
	own   map[netip.Addr]bool // the card's own static addresses
	mdns  bool                // multicast DNS is relayed
}

func (v *validator) bad(field, format string, args ...any) {
	// More than a screenful is of no use, and the input may be hostile.
	if len(v.errs) < 20 {
		v.errs = append(v.errs, fmt.Errorf("configuration: "+field+": "+format, args...))
	}
}

func (v *validator) count(field string, n, low, high int) {
	if n < low || n > high {
		v.bad(field, "%d given, want %d to %d", n, low, high)
	}
}

func (v *validator) identity(c *Config) {
	if !isName(c.Name) {
		v.bad("name", "%q: want 1 to 63 letters, digits, dots, dashes and underscores", c.Name)
	}
	if h := c.EffectiveHostname(); !isHost(h) {
		v.bad("hostname", "%q: want 1 to 63 letters, digits and dashes", h)
	}
	if c.Mode != ModeRouter && c.Mode != ModeEndpoint {
		v.bad("mode", "%q: want %q or %q", c.Mode, ModeEndpoint, ModeRouter)
	}
	if len(c.Firmware) > 256 {
		v.bad("firmware", "%d characters, want at most 256", len(c.Firmware))
	}
}

func (v *validator) servers(field string, list []netip.Addr) {
	v.count(field, len(list), 0, maxServers)
	for _, a := range list {
		switch {
		case !usable(a) || a.IsLinkLocalUnicast() && a.Is6():
			v.bad(field, "%q: want a server's unicast address", a.String())
		case v.own[a]:
			// A forwarder that asks itself never answers.
			v.bad(field, "%s is an address of the card itself; want another server's", a)
		}
	}
}

func (v *validator) domains(field string, list []string) {
	v.count(field, len(list), 0, maxServers)
	for _, s := range list {
		if !isDomain(s) {
			v.bad(field, "%q: want a domain name such as example.org", s)
		}
	}
}

func (v *validator) timeServers(list []string) {
	v.count("time_servers", len(list), 0, maxServers)
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && usable(a) {
			continue
		}
		if !isDomain(s) {
			v.bad("time_servers", "%q: want a name such as ntp.example.org, or an address", s)
		}
	}
}

func (v *validator) keys(list []string) {
	v.count("authorized_keys", len(list), 0, maxKeys)
	for i, line := range list {
		if _, err := ParseAuthorizedKey(line); err != nil {
			v.bad(fmt.Sprintf("authorized_keys[%d]", i), "%w", err)
		}
	}
}
