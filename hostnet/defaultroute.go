package hostnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/flock"
)

// halves cover everything, and each is more specific than any default route:
// they win without one being removed or outbid.
var halves = map[bool][]netip.Prefix{
	true:  {netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")},
	false: {netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")},
}

// ErrClaimed: another card has the default route or the host's name resolution.
var ErrClaimed = errors.New("another card has it")

// claim takes the host's default route for this card, for as long as this
// process lives or until release. Two would take each other's routes, and put
// back each other's name resolution. The error is ErrClaimed, and names the card
// that has it.
func (h *Host) claim() (release func(), err error) {
	path := filepath.Join(h.card.Dirs.State, ".default-route")
	l, err := flock.Try(path)
	if errors.Is(err, flock.ErrHeld) {
		return nil, fmt.Errorf("the host's default route is that of card %s: %w; "+
			"fix: take it down, or leave out link.default_route here", flock.Note(path), ErrClaimed)
	}
	if err != nil {
		return nil, err
	}
	if err := l.Note(h.card.Name); err != nil {
		l.Release()
		return nil, err
	}
	return l.Release, nil
}

// DefaultRoute sends the host's traffic through the link, and its name
// resolution, and returns what undoes both. One card of a host has it at a time:
// the error for another one is ErrClaimed.
func (h *Host) DefaultRoute(
	ctx context.Context, iface string, a store.LinkAddrs,
) (undo func() error, err error) {
	release, err := h.claim()
	if err != nil {
		return nil, err
	}
	all := undos{func() error { release(); return nil }}
	if err := h.takeDefault(ctx, iface, a, &all); err != nil {
		return nil, errors.Join(err, all.undo())
	}
	return all.undo, nil
}

func (h *Host) takeDefault(ctx context.Context, iface string, a store.LinkAddrs, all *undos) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	for _, card := range a.CardAddrs() {
		if card.Is6() && !netdev.HasIPv6() {
			continue
		}
		undo, err := h.do(&routes{Index: l.Attrs().Index, Via: card, To: halves[card.Is4()]})
		if err != nil {
			return err
		}
		*all = append(*all, undo)
	}
	undo, err := h.takeDNS(ctx, iface, l.Attrs().Index, a.CardAddrs())
	if err == nil {
		*all = append(*all, undo)
	}
	return err
}

// takeDNS makes the card the host's resolver: through systemd-resolved where
// that is in charge, else in /etc/resolv.conf.
func (h *Host) takeDNS(
	ctx context.Context, iface string, index int, servers []netip.Addr,
) (undo func() error, err error) {
	target, err := os.Readlink(resolvPath)
	if err == nil && strings.Contains(target, "systemd/resolve") {
		return h.do(&resolved{Interface: iface, Index: index, Servers: servers, ctx: ctx})
	}
	if first := markOf(resolvPath); first != "" {
		return nil, fmt.Errorf("%s still is what card %s put there: %w; fix: `toe down %s`",
			resolvPath, first, ErrClaimed, first)
	}
	saved, err := saveFile(resolvPath, resolvText(h.card.Name, servers, h.card.Spec.DNS.Search))
	if err != nil {
		return nil, err
	}
	return h.do(saved)
}

// resolved is the card as the resolver of systemd-resolved for all names. It is
// forgotten with the interface.
type resolved struct {
	Interface string       `json:"interface"`
	Index     int          `json:"index"`
	Servers   []netip.Addr `json:"servers"`

	ctx context.Context // of Make
}

const resolvedLimit = 10 * time.Second

func (r *resolved) Make() error {
	ctx, cancel := context.WithTimeout(r.ctx, resolvedLimit)
	defer cancel()
	dns := []string{"dns", r.Interface}
	for _, s := range r.Servers {
		dns = append(dns, s.String())
	}
	domain, route := []string{"domain", r.Interface, "~."}, []string{"default-route", r.Interface, "yes"}
	for _, args := range [][]string{dns, domain, route} {
		if err := resolvectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Undo forgets what the interface has, if it is the same one still.
func (r *resolved) Undo() error {
	l, err := netlink.LinkByName(r.Interface)
	if err != nil || l.Attrs().Index != r.Index {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolvedLimit)
	defer cancel()
	return resolvectl(ctx, "revert", r.Interface)
}

func (r *resolved) Lasts() bool { return false }

func resolvectl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("resolvectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
