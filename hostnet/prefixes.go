package hostnet

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/card/store"
)

// Prefixes are what the host routes to somewhere on purpose. Default
// routes and ranges as wide as a whole organisation's are no obstacle: a link
// takes two addresses out of them. A host that does not tell is taken to
// have none; the kernel refuses a real clash later.
func (h *Host) Prefixes() []store.Used {
	var used []store.Used
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, ok := fromIPNet(*r.Dst); ok && !wide(p) {
			used = append(used, store.Used{Prefix: p, By: "a route of the host"})
		}
	}
	addrs, _ := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range addrs {
		if p, ok := fromIPNet(*a.IPNet); ok {
			used = append(used, store.Used{Prefix: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), By: "an address of the host"})
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
