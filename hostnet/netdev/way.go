package netdev

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/card/store"
)

// linkWay tells which connections of this network namespace go over a link.
//
// Their socket has one of the host's addresses of the link, or is connected to one
// of the card's, and the kernel routes its packets to the link. A container that
// talks to the link's address, and connections of the host with itself, are not
// among them. The route is looked up now, by source and destination only. So two
// cases are not told apart:
//
//   - A socket with a packet mark that a rule of the host matches is judged by the
//     route without the mark; one whose route has changed, by the new route.
//   - After the interface has gone, a connection of the link's address with a
//     machine behind another gateway ends too: an address that is gone carries
//     nothing. A machine attached to the host directly is left alone.
//
// Forwarded connections, such as those of containers, have no socket here.
type linkWay struct {
	addrs store.LinkAddrs
	index int // of the interface; 0: it is gone
}

func wayOf(a store.LinkAddrs) linkWay {
	w := linkWay{addrs: a}
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return w
	}
	for _, here := range all {
		if ip, ok := netip.AddrFromSlice(here.IP); ok && slices.Contains(a.HostAddrs(), ip.Unmap()) {
			w.index = here.LinkIndex
		}
	}
	return w
}

func (w linkWay) carries(s *netlink.Socket) bool {
	from, ok1 := netip.AddrFromSlice(s.ID.Source)
	to, ok2 := netip.AddrFromSlice(s.ID.Destination)
	if !ok1 || !ok2 {
		return false
	}
	from, to = from.Unmap(), to.Unmap()
	if s.ID.Interface != 0 { // it is bound to a device
		return w.index != 0 && int(s.ID.Interface) == w.index
	}
	ours := slices.Contains(w.addrs.HostAddrs(), from)
	switch {
	case slices.Contains(w.addrs.HostAddrs(), to):
		return false // the host with itself
	case w.index == 0:
		return ours && !attached(to)
	case ours || slices.Contains(w.addrs.CardAddrs(), to):
		return w.routes(from, to)
	}
	return false
}

// routes reports whether packets from one address to the other go over the link.
func (w linkWay) routes(from, to netip.Addr) bool {
	found, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.AsSlice()})
	return err == nil && len(found) > 0 && found[0].LinkIndex == w.index
}

// attached reports whether an address is the host's own, or on a network that the
// host is attached to.
func attached(to netip.Addr) bool {
	found, err := netlink.RouteGet(net.IP(to.AsSlice()))
	return err == nil && len(found) > 0 && found[0].Gw == nil && found[0].Via == nil
}
