package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/flock"
)

// A service on the host that the card publishes sees its clients' addresses. Its
// answers have destinations anywhere, and must not take the host's default route:
// a rule sends packets from the link's address to a table that leads to the card.
// No other traffic of the host matches it.
const (
	// returnPriority is that of the rules, before the table main (32766).
	returnPriority = 7464
	// The tables, one a card: what is free in this range.
	firstReturnTable = 7464000
	lastReturnTable  = 7464999
)

// returnRoute is a rule for what comes from the host's address of a link, and
// the default route in its table. The route goes away with the interface, the
// rule does not.
type returnRoute struct {
	From  netip.Addr `json:"from"`
	Via   netip.Addr `json:"via"`   // the card's address
	Index int        `json:"index"` // of the link; the kernel does not use one twice in a boot
	Table int        `json:"table"`
}

// ReturnRoute makes answers from the link's address go back through the link,
// and answers to what came through it have that address. It returns what undoes
// both, also with an error for UDP alone.
func (h *Host) ReturnRoute(iface string, a store.LinkAddrs) (undo func() error, err error) {
	// One at a time, or two cards would find the same table free.
	lock, err := flock.Wait(filepath.Join(h.card.Dirs.State, ".lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	table, err := freeReturnTable()
	if err != nil {
		return nil, err
	}
	var all undos
	for i, from := range a.HostAddrs() {
		if !from.Is4() && !netdev.HasIPv6() {
			continue
		}
		undo, err := h.do(&returnRoute{
			From: from, Via: a.CardAddrs()[i], Index: l.Attrs().Index, Table: table,
		})
		if err != nil {
			return nil, errors.Join(err, all.undo())
		}
		all = append(all, undo)
	}
	undo, err = h.do(&udpAnswers{Table: udpTable(h.card.Name), Interface: iface, From: a.HostAddrs()})
	if err != nil {
		return all.undo, fmt.Errorf(
			"answers of UDP services bound to 0.0.0.0 or :: take the host's default route: %w", err)
	}
	all = append(all, undo)
	return all.undo, nil
}

// undos are undone in the reverse order.
type undos []func() error

func (u undos) undo() error {
	var errs []error
	for i := len(u) - 1; i >= 0; i-- {
		errs = append(errs, u[i]())
	}
	return errors.Join(errs...)
}

func (r *returnRoute) family() int {
	if r.From.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (r *returnRoute) rule() *netlink.Rule {
	out := netlink.NewRule()
	out.Family, out.Priority, out.Table = r.family(), returnPriority, r.Table
	out.Src = netdev.IPNet(netip.PrefixFrom(r.From, r.From.BitLen()))
	return out
}

func (r *returnRoute) Make() error {
	way := netdev.DefaultVia(r.Index, r.Via, r.Table)
	replace := func() error { return netlink.RouteReplace(&way) }
	if r.From.Is4() {
		way.Gw = nil // as netdev.LockMTU has it
		replace = func() error { return netdev.ReplaceRoute(way, true) }
	}
	if err := replace(); err != nil {
		return fmt.Errorf("default route via %s in table %d: %w", r.Via, r.Table, err)
	}
	if err := netlink.RuleAdd(r.rule()); err != nil {
		return fmt.Errorf("rule from %s lookup %d: %w", r.From, r.Table, err)
	}
	return nil
}

// Undo removes the rule with this address and table, and of the table only this
// card's route: another card may have been given the table since.
func (r *returnRoute) Undo() error {
	return errors.Join(r.removeRule(), delRoutes(r.family(), r.Index, r.Table, everything(r.From)))
}

// removeRule removes the rule. A kernel without such rules has none.
func (r *returnRoute) removeRule() error {
	err := netlink.RuleDel(r.rule())
	for _, none := range []error{unix.ENOENT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, none) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove rule from %s lookup %d: %w", r.From, r.Table, err)
	}
	return nil
}

func (r *returnRoute) Lasts() bool { return false }

// everything is the prefix that all addresses of a's family are in.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// freeReturnTable is the first table of the range that no rule and no route
// of this host names.
func freeReturnTable() (int, error) {
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list of rules: %w", err)
	}
	taken := map[int]bool{}
	for _, r := range rules {
		taken[r.Table] = true
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return 0, fmt.Errorf("list of routes: %w", err)
	}
	for _, r := range routes {
		taken[r.Table] = true
	}
	for t := firstReturnTable; t <= lastReturnTable; t++ {
		if !taken[t] {
			return t, nil
		}
	}
	return 0, fmt.Errorf("no free routing table: %d to %d are in use",
		firstReturnTable, lastReturnTable)
}
