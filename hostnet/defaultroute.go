package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
)

// halves cover everything, and each is more specific than any default route:
// they win without one being removed or outbid.
var halves = map[bool][]string{
	true:  {"0.0.0.0/1", "128.0.0.0/1"},
	false: {"::/1", "8000::/1"},
}

// DefaultRoute sends the host's traffic through the link. The routes go away
// with the interface; what the host resolves names with is in the journal
// before it is changed.
func (h *Host) DefaultRoute(ctx context.Context, iface string, a store.LinkAddrs) (func() error, error) {
	// Two would put back each other's state, in the wrong order.
	if now, err := os.ReadFile(resolvPath); err == nil && strings.HasPrefix(string(now), resolvMark) {
		return nil, fmt.Errorf("%s is another card's: take down the one that has link.default_route", resolvPath)
	}
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	var made []*netlink.Route
	undo := func() error { return errors.Join(delRoutes(made), h.restoreDNS()) }
	for _, card := range a.CardAddrs() {
		for _, half := range halves[card.Is4()] {
			r := &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: netdev.RouteProtocol, Dst: netdev.IPNet(netip.MustParsePrefix(half)), Gw: card.AsSlice()}
			if err := netlink.RouteReplace(r); err != nil {
				if card.Is6() && !netdev.HasIPv6() {
					continue
				}
				return undo, fmt.Errorf("route %s via %s: %w", half, card, err)
			}
			// Not by its gateway: lockMTU changes that.
			made = append(made, &netlink.Route{LinkIndex: r.LinkIndex, Dst: r.Dst})
		}
	}
	return undo, h.takeDNS(ctx, iface, a.CardAddrs())
}

func delRoutes(routes []*netlink.Route) error {
	var errs []error
	for _, r := range routes {
		err := netlink.RouteDel(r)
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) { // gone is gone
			errs = append(errs, fmt.Errorf("route %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// takeDNS makes the card the host's resolver: through systemd-resolved where
// that is in charge, which forgets it with the interface; else in
// /etc/resolv.conf.
func (h *Host) takeDNS(ctx context.Context, iface string, servers []netip.Addr) error {
	if target, err := os.Readlink(resolvPath); err == nil && strings.Contains(target, "systemd/resolve") {
		return resolved(ctx, iface, servers)
	}
	saved, err := saveFile(resolvPath, ResolvConf(servers, h.card.Spec.DNS.Search))
	if err != nil {
		return err
	}
	if err := note(h.card, func(j *Journal) { j.ResolvConf = saved }); err != nil {
		return err
	}
	return saved.replaceWith()
}

func resolved(ctx context.Context, iface string, servers []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dns := []string{"dns", iface}
	for _, s := range servers {
		dns = append(dns, s.String())
	}
	for _, args := range [][]string{dns, {"domain", iface, "~."}, {"default-route", iface, "yes"}} {
		if out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("resolvectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func (h *Host) restoreDNS() error {
	j, err := loadJournal(h.card)
	if err != nil {
		return err
	}
	if err := restoreFile(j.ResolvConf); err != nil {
		return err
	}
	return note(h.card, func(j *Journal) { j.ResolvConf = nil })
}
