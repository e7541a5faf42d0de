package control

import "net/netip"

func (v *validator) device(field, name, mac string) {
	switch other := v.names[name]; {
	case !isInterface(name) || reservedNames[name]:
		v.bad(field+".name", "%q: want a letter and up to 14 letters, digits, dashes and underscores, "+
			"and not lo, all or default", name)
	case other != "":
		v.bad(field+".name", "%q is the name of %s; want a unique name", name, other)
	default:
		v.names[name] = field
	}
	if _, err := parseMAC(mac); err != nil {
		v.bad(field+".mac", "%w", err)
		return
	}
	if other := v.macs[mac]; other != "" {
		v.bad(field+".mac", "%s is the address of %s; want a unique address", mac, other)
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
			v.bad(field+".card", "%s: want a unicast IPv4 address with /31 or IPv6 address with /127", p)
			continue
		}
		if v.own[p.Addr()] {
			v.bad(field+".card", "%s is given twice; want one address of each family", p)
		}
		v.own[p.Addr()] = true
		peers[Peer(p)] = true
	}
	for _, h := range l.Host {
		if !peers[h] {
			v.bad(field+".host", "%s: want the other address of a prefix in %s.card", h, field)
		}
		delete(peers, h)
	}
	for p := range peers {
		v.bad(field+".host", "%s is missing: it is the host's end of a prefix in %s.card", p, field)
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
			v.bad(field+".addresses", "%q is given twice", a)
		}
		seen[a] = true
		six = v.portAddress(field, a) || six
	}
	low := 576 // RFC 791: every host accepts that much
	if six {
		low = 1280 // RFC 8200, section 5
	}
	if p.MTU != 0 && (p.MTU < low || p.MTU > 65535) {
		v.bad(field+".mtu", "%d: want %d to 65535, or 0 for the device's own", p.MTU, low)
	}
	v.gateways(field, p)
	v.servers(field+".dns", p.DNS)
}

// portAddress reports whether the address needs IPv6.
func (v *validator) portAddress(field, a string) bool {
	if a == DHCP {
		return false
	}
	if a == RA {
		return true
	}
	prefix, err := netip.ParsePrefix(a)
	if err != nil || !usable(prefix.Addr()) || prefix.Bits() == 0 {
		v.bad(field+".addresses",
			`%q: want "dhcp", "ra" or an address with its prefix length, such as 192.0.2.2/24`, a)
		return false
	}
	if v.own[prefix.Addr()] {
		v.bad(field+".addresses", "%s is an address of the card already; want a unique address", a)
	}
	v.own[prefix.Addr()] = true
	return prefix.Addr().Is6()
}

func (v *validator) gateways(field string, p *Port) {
	families := map[bool]bool{}
	for _, g := range p.Gateway {
		if !reachable(p, g) {
			v.bad(field+".gateway",
				"%s: want an address inside one of the port's static prefixes, or a link-local IPv6 address", g)
		}
		if families[g.Is4()] {
			v.bad(field+".gateway", "%s is the second of its family; want one", g)
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

// usable reports whether an address can belong to a node or a server.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() &&
		a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
