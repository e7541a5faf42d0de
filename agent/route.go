package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route is a route that the agent added.
type route struct {
	dst    netip.Prefix // 0.0.0.0/0 or ::/0 for the default route
	via    netip.Addr   // invalid: directly on the device
	metric int
}

func (r route) String() string {
	if !r.via.IsValid() {
		return r.dst.String()
	}
	return fmt.Sprintf("%s via %s", r.dst, r.via)
}

func (r route) kernel(index int) *netlink.Route {
	k := &netlink.Route{LinkIndex: index, Dst: ipNet(r.dst), Priority: r.metric, Protocol: unix.RTPROT_STATIC}
	if r.via.IsValid() {
		k.Gw = r.via.AsSlice()
		// Some providers assign a gateway outside the address's prefix (a /32
		// lease). It is on the wire all the same.
		k.Flags = int(netlink.FLAG_ONLINK)
	} else {
		k.Scope = netlink.SCOPE_LINK
	}
	return k
}

func addRoute(nl *netlink.Handle, dev netlink.Link, r route) error {
	if err := nl.RouteReplace(r.kernel(dev.Attrs().Index)); err != nil {
		return fmt.Errorf("route %s on %s: %w", r, dev.Attrs().Name, err)
	}
	return nil
}

// removeRoute succeeds if the route is gone already, with its device or with the
// last address of its family.
func removeRoute(nl *netlink.Handle, dev netlink.Link, r route) error {
	err := nl.RouteDel(r.kernel(dev.Attrs().Index))
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove route %s from %s: %w", r, dev.Attrs().Name, err)
	}
	return nil
}

// gateways lists the next hops of a device's default routes, the kernel's own
// included.
func gateways(nl *netlink.Handle, dev netlink.Link) []netip.Addr {
	var out []netip.Addr
	list, err := nl.RouteList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	for _, r := range list {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if ip, ok := netip.AddrFromSlice(r.Gw); ok {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func defaultRoute(via netip.Addr, metric int) route {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if via.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return route{all, via, metric}
}
