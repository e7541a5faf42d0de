package card

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/internal/atomicfile"
)

// usedPrefix is an address range that somebody has, and who.
type usedPrefix struct {
	prefix netip.Prefix
	by     string
}

func takenBy(used []usedPrefix) func(netip.Prefix) string {
	return func(p netip.Prefix) string {
		for _, u := range used {
			if u.prefix.Overlaps(p) {
				return u.by
			}
		}
		return ""
	}
}

// othersPrefixes are the link prefixes of the other cards, and the host's
// addresses and routes.
func (c *Card) othersPrefixes() ([]usedPrefix, error) {
	names, err := c.dirs.List()
	if err != nil {
		return nil, err
	}
	var used []usedPrefix
	own := map[netip.Prefix]bool{}
	for _, name := range names {
		var l Links
		if atomicfile.ReadJSON(c.dirs.Card(name).Links(), &l) != nil {
			continue // never started
		}
		for _, a := range []*LinkAddrs{l.Link, l.Exec} {
			if a == nil {
				continue
			}
			for _, p := range a.Host() {
				if name == c.Name {
					own[p] = true
				} else {
					used = append(used, usedPrefix{p, "card " + name})
				}
			}
		}
	}
	for _, u := range hostPrefixes() {
		if !own[u.prefix] {
			used = append(used, u)
		}
	}
	return used, nil
}

// hostPrefixes are what the host routes to somewhere on purpose. Default
// routes and ranges as wide as a whole organisation's are no obstacle: a link
// takes two addresses out of them. A host that does not tell is taken to
// have none; the kernel refuses a real clash later.
func hostPrefixes() []usedPrefix {
	var used []usedPrefix
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, ok := fromIPNet(*r.Dst); ok && !wide(p) {
			used = append(used, usedPrefix{p, "a route of the host"})
		}
	}
	addrs, _ := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range addrs {
		if p, ok := fromIPNet(*a.IPNet); ok {
			used = append(used, usedPrefix{netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), "an address of the host"})
		}
	}
	return used
}

func wide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < 14 || p.Addr().Is6() && p.Bits() < 32
}

func fromIPNet(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), true
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
