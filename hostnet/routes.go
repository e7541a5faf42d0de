package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/hostnet/netdev"
)

// routes are routes of the table main through a link. They go away with the
// interface.
type routes struct {
	Index int            `json:"index"` // of the link
	Via   netip.Addr     `json:"via"`   // the card's address
	To    []netip.Prefix `json:"to"`
}

func (r *routes) Make() error {
	for _, to := range r.To {
		way := &netlink.Route{
			LinkIndex: r.Index, Protocol: netdev.RouteProtocol, Dst: netdev.IPNet(to), Gw: r.Via.AsSlice(),
		}
		// Not RouteReplace: that would take the route of a VPN or of another card.
		err := netlink.RouteAdd(way)
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s: another program has it (`ip route show %s`): %w", to, to, err)
		}
		if err != nil {
			return fmt.Errorf("route %s via %s: %w", to, r.Via, err)
		}
	}
	return nil
}

func (r *routes) Undo() error {
	var errs []error
	for _, to := range r.To {
		family := unix.AF_INET6
		if to.Addr().Is4() {
			family = unix.AF_INET
		}
		errs = append(errs, delRoutes(family, r.Index, unix.RT_TABLE_MAIN, to))
	}
	return errors.Join(errs...)
}

func (r *routes) Lasts() bool { return false }

// delRoutes removes toe's own routes to a prefix through an interface from a
// table. It does not look at the gateway, which netdev.LockMTU changes.
func delRoutes(family, index, table int, to netip.Prefix) error {
	all, err := netlink.RouteListFiltered(family,
		&netlink.Route{Table: table, LinkIndex: index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("routes of table %d: %w", table, err)
	}
	var errs []error
	for _, r := range all {
		if r.Protocol != netdev.RouteProtocol || !sameDestination(r, to) {
			continue
		}
		err := netlink.RouteDel(&r)
		// ESRCH and ENODEV: the route is gone already.
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove route %s of table %d: %w", to, table, err))
		}
	}
	return errors.Join(errs...)
}

func sameDestination(r netlink.Route, to netip.Prefix) bool {
	if r.Dst == nil {
		return to.Bits() == 0
	}
	ones, _ := r.Dst.Mask.Size()
	ip, ok := netip.AddrFromSlice(r.Dst.IP)
	return ok && ones == to.Bits() && ip.Unmap() == to.Addr()
}
