package netdev

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
)

// RouteProtocol marks the routes that toe makes, as `proto 116`. Other routes of
// the same interface are left alone. The numbers below it are the kernel's and
// those of well-known daemons (/etc/iproute2/rt_protos).
const RouteProtocol = 116

// LockMTU locks the path MTU of toe's own IPv4 routes of an interface of the link,
// for a card in endpoint mode, or unlocks it, for a router.
//
// The path to an endpoint has the link's MTU, whatever lies behind the card:
// `mtu lock`. A socket that leaves the path MTU to the kernel (IP_PMTUDISC_WANT,
// the default) then does not set DF, which would keep the card from fragmenting,
// and no ICMP message about the wire lowers the MTU. The lock has no number: the
// kernel accepts none above 65520 in a route, and the largest datagram would be
// fragmented. A route with a gateway and a lock without a number has an MTU of
// 576, so these routes name the interface only. The card is alone at its other end.
//
// IPv6 packets have no DF, and only their senders fragment. What the card forwards
// needs the ICMPv6 messages of routers, so nothing is locked there.
func LockMTU(iface string, a store.LinkAddrs, on bool) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("routes of %s: %w", iface, err)
	}
	card := net.IP(a.CardAddrs()[0].AsSlice())
	for _, r := range routes {
		ours := r.Protocol == RouteProtocol || r.Protocol == unix.RTPROT_KERNEL
		if r.Type != unix.RTN_UNICAST || r.MTULock == on || !ours {
			continue
		}
		if r.Gw = nil; !on && r.Scope == netlink.SCOPE_UNIVERSE {
			r.Gw = card
		}
		if err := ReplaceRoute(r, on); err != nil {
			return err
		}
	}
	return nil
}

// ReplaceRoute is netlink.RouteReplace with a lock of the MTU without a number.
func ReplaceRoute(r netlink.Route, lock bool) error {
	m := nl.NewRtMsg()
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	m.Family, m.Scope, m.Type = unix.AF_INET, uint8(r.Scope), unix.RTN_UNICAST
	m.Protocol = uint8(r.Protocol)
	m.Table = unix.RT_TABLE_UNSPEC // it is in an attribute
	req.AddData(m)
	add := func(kind int, data []byte) {
		if len(data) > 0 {
			req.AddData(nl.NewRtAttr(kind, data))
		}
	}
	if r.Dst != nil {
		ones, _ := r.Dst.Mask.Size()
		m.Dst_len = uint8(ones)
		add(unix.RTA_DST, r.Dst.IP.To4())
	}
	add(unix.RTA_OIF, nl.Uint32Attr(uint32(r.LinkIndex)))
	add(unix.RTA_TABLE, nl.Uint32Attr(uint32(r.Table)))
	add(unix.RTA_PREFSRC, r.Src.To4())
	add(unix.RTA_GATEWAY, r.Gw.To4())
	if r.Priority != 0 {
		add(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.Priority)))
	}
	if lock {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_LOCK, nl.Uint32Attr(1<<unix.RTAX_MTU))
		req.AddData(metrics)
	}
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("route %s: %w", r, err)
	}
	return nil
}

// DefaultVia is a default route in a table, through a card.
func DefaultVia(index int, card netip.Addr, table int) netlink.Route {
	return netlink.Route{LinkIndex: index, Table: table, Protocol: RouteProtocol, Gw: card.AsSlice(), Dst: IPNet(netip.PrefixFrom(zero(card), 0))}
}
