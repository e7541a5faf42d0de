package control

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Bounds on what one card may be told to do: far above use, low enough that
// a wrong program cannot make the card do unbounded work.
const (
	maxLinks   = 8
	maxPorts   = 32
	maxPerPort = 32
	maxServers = 16
	maxKeys    = 256
)

// Not regular expressions: compiling three of them was the largest part of
// what the agent did before its main.

// isName: 1 to 63 letters, digits and, inside, dots, dashes and underscores.
func isName(s string) bool {
	return len(s) <= 63 && only(s, "._-") && isAlnum(s[0]) && isAlnum(s[len(s)-1])
}

// isHost is one label of a host name (RFC 1123, section 2.1).
func isHost(s string) bool {
	return len(s) <= 63 && only(s, "-") && isAlnum(s[0]) && isAlnum(s[len(s)-1])
}

func isInterface(s string) bool {
	return len(s) <= 15 && only(s, "_-") && isAlnum(s[0]) && (s[0] < '0' || s[0] > '9')
}

// only says whether s is not empty and of letters, digits and others alone.
func only(s, others string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return len(s) > 0
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// reservedNames cannot be interfaces: two are the kernel's words in /proc/sys, one is the loopback.
var reservedNames = map[string]bool{"lo": true, "all": true, "default": true}

// Validate checks the whole configuration and reports every fault, each with
// the field, the value and what is right.
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
	v.servers("dns", c.DNS)
	v.domains("search", c.Search)
	v.timeServers(c.TimeServers)
	v.keys(c.AuthorizedKeys)
	return errors.Join(v.errs...)
}

type validator struct {
	errs  []error
	names map[string]string // interface name to the field that took it
	macs  map[string]string
	own   map[netip.Addr]bool // the card's own static addresses
	mdns  bool                // multicast DNS is relayed
}

func (v *validator) bad(field, format string, args ...any) {
	// More than a screenful helps nobody, and the input may be hostile.
	if len(v.errs) < 20 {
		v.errs = append(v.errs, fmt.Errorf("configuration: "+field+": "+format, args...))
	}
}

func (v *validator) count(field string, n, low, high int) {
	if n < low || n > high {
		v.bad(field, "%d given, %d to %d are right", n, low, high)
	}
}

func (v *validator) identity(c *Config) {
	if !isName(c.Name) {
		v.bad("name", "%q: 1 to 63 letters, digits, dots, dashes and underscores are right", c.Name)
	}
	if h := c.EffectiveHostname(); !isHost(h) {
		v.bad("hostname", "%q: 1 to 63 letters, digits and dashes are right", h)
	}
	if c.Mode != ModeRouter && c.Mode != ModeEndpoint {
		v.bad("mode", "%q: %q or %q is right", c.Mode, ModeEndpoint, ModeRouter)
	}
	if len(c.Firmware) > 256 {
		v.bad("firmware", "%d characters, at most 256 are right", len(c.Firmware))
	}
}

func (v *validator) device(field, name, mac string) {
	switch other := v.names[name]; {
	case !isInterface(name) || reservedNames[name]:
		v.bad(field+".name", "%q: a letter and up to 14 letters, digits, dashes and underscores are right, not lo, all or default", name)
	case other != "":
		v.bad(field+".name", "%q is the name of %s already, a name of its own is right", name, other)
	default:
		v.names[name] = field
	}
	if _, err := parseMAC(mac); err != nil {
		v.bad(field+".mac", "%w", err)
		return
	}
	if other := v.macs[mac]; other != "" {
		v.bad(field+".mac", "%s is the address of %s already, one of its own is right", mac, other)
	}
	v.macs[mac] = field
}

func (v *validator) link(field string, l *Link) {
	v.device(field, l.Name, l.MAC)
	v.count(field+".card", len(l.Card), 1, 2)
	v.count(field+".host", len(l.Host), 1, 2)
	peers := map[netip.Addr]bool{}
	for _, p := range l.Card {
		bits := 127
		if p.Addr().Is4() {
			bits = 31
		}
		if !usable(p.Addr()) || p.Bits() != bits {
			v.bad(field+".card", "%s: a unicast IPv4 address with /31 or IPv6 address with /127 is right", p)
			continue
		}
		if v.own[p.Addr()] {
			v.bad(field+".card", "%s is given twice, one address of each family is right", p)
		}
		v.own[p.Addr()] = true
		peers[Peer(p)] = true
	}
	for _, h := range l.Host {
		if !peers[h] {
			v.bad(field+".host", "%s: the other address of a prefix in %s.card is right", h, field)
		}
		delete(peers, h)
	}
	for p := range peers {
		v.bad(field+".host", "%s is missing, it is the host's end of a prefix in %s.card", p, field)
	}
}

// Peer is the other address of a /31 (RFC 3021) or /127 (RFC 6164).
func Peer(p netip.Prefix) netip.Addr {
	if p.Masked().Addr() == p.Addr() {
		return p.Addr().Next()
	}
	return p.Masked().Addr()
}

func (v *validator) port(field string, p *Port) {
	v.device(field, p.Name, p.MAC)
	v.count(field+".addresses", len(p.Addresses), 0, maxPerPort)
	v.count(field+".gateway", len(p.Gateway), 0, 2)
	seen := map[string]bool{}
	six := false
	for _, a := range p.Addresses {
		if seen[a] {
			v.bad(field+".addresses", "%q is given twice, once is right", a)
		}
		seen[a] = true
		six = v.portAddress(field, a) || six
	}
	low := 576 // RFC 791: every host takes that much
	if six {
		low = 1280 // RFC 8200, section 5
	}
	if p.MTU != 0 && (p.MTU < low || p.MTU > 65535) {
		v.bad(field+".mtu", "%d: %d to 65535, or 0 for the device's own, is right", p.MTU, low)
	}
	v.gateways(field, p)
	v.servers(field+".dns", p.DNS)
}

// portAddress says whether the address needs IPv6.
func (v *validator) portAddress(field, a string) bool {
	if a == DHCP {
		return false
	}
	if a == RA {
		return true
	}
	prefix, err := netip.ParsePrefix(a)
	if err != nil || !usable(prefix.Addr()) || prefix.Bits() == 0 {
		v.bad(field+".addresses", `%q: "dhcp", "ra" or an address with its prefix length like 192.0.2.2/24 is right`, a)
		return false
	}
	if v.own[prefix.Addr()] {
		v.bad(field+".addresses", "%s is an address of the card already, one of its own is right", a)
	}
	v.own[prefix.Addr()] = true
	return prefix.Addr().Is6()
}

func (v *validator) gateways(field string, p *Port) {
	families := map[bool]bool{}
	for _, g := range p.Gateway {
		if !reachable(p, g) {
			v.bad(field+".gateway", "%s: an address inside one of the port's static prefixes, or a link-local IPv6 one, is right", g)
		}
		if families[g.Is4()] {
			v.bad(field+".gateway", "%s is the second of its family, one is right", g)
		}
		families[g.Is4()] = true
	}
}

func reachable(p *Port, g netip.Addr) bool {
	if !usable(g) {
		return false
	}
	if g.IsLinkLocalUnicast() && g.Is6() {
		return true
	}
	for _, s := range p.Static() {
		if s.Contains(g) && s.Addr() != g {
			return true
		}
	}
	return false
}

// usable says whether an address can be a node's own or a server's.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() &&
		a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (v *validator) servers(field string, list []netip.Addr) {
	v.count(field, len(list), 0, maxServers)
	for _, a := range list {
		switch {
		case !usable(a) || a.IsLinkLocalUnicast() && a.Is6():
			v.bad(field, "%q: a server's unicast address is right", a.String())
		case v.own[a]:
			// A forwarder that asks itself answers never.
			v.bad(field, "%s is an address of the card itself, another server's is right", a)
		}
	}
}

func (v *validator) domains(field string, list []string) {
	v.count(field, len(list), 0, maxServers)
	for _, s := range list {
		if !isDomain(s) {
			v.bad(field, "%q: a domain name like example.org is right", s)
		}
	}
}

func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isHost(label) {
			return false
		}
	}
	return true
}

func (v *validator) timeServers(list []string) {
	v.count("time_servers", len(list), 0, maxServers)
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && usable(a) {
			continue
		}
		if !isDomain(s) {
			v.bad("time_servers", "%q: a name like ntp.example.org or an address is right", s)
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

// ParseAuthorizedKey reads one line of an authorized_keys file. Options are
// refused: the card would not honour them, and they only ever restrict.
func ParseAuthorizedKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%.40q: a line like \"ssh-ed25519 AAAA… name\" is right: %w", line, err)
	case len(options) > 0:
		return nil, fmt.Errorf("options %q are not known here, a key without options is right", options)
	case len(bytes.TrimSpace(rest)) > 0 || strings.ContainsAny(strings.TrimSpace(line), "\n\r"):
		return nil, fmt.Errorf("%.40q: one key a line is right", line)
	}
	return key, nil
}
