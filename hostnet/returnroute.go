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

// A service on the host that the card publishes sees its clients' own
// addresses. Its answers are for anywhere, and must not take the host's
// default route: a rule sends what comes from the link's address to a table
// that leads to the card. Nothing else of the host's meets it.
const (
	// returnPriority is that of the rules, before the table main (32766).
	returnPriority = 7464
	// The tables, one a card: what is free in this range.
	firstReturnTable = 7464000
	lastReturnTable  = 7464999
)

// ReturnRule is what has to be put back: unlike the routes of its table, a
// rule does not go away with the interface.
type ReturnRule struct {
	From  netip.Addr `json:"from"`
	Table int        `json:"table"`
}

func (r ReturnRule) family() int {
	if r.From.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (r ReturnRule) rule() *netlink.Rule {
	out := netlink.NewRule()
	out.Family, out.Priority, out.Table = r.family(), returnPriority, r.Table
	out.Src = netdev.IPNet(netip.PrefixFrom(r.From, r.From.BitLen()))
	return out
}

// ReturnRoute makes answers of the link's address go back through the link,
// and returns what undoes that.
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
	var rules []ReturnRule
	for _, from := range a.HostAddrs() {
		if from.Is4() || netdev.HasIPv6() {
			rules = append(rules, ReturnRule{from, table})
		}
	}
	if err := note(h.card, func(j *Journal) { j.ReturnRules = rules }); err != nil {
		return nil, err
	}
	undo = func() error {
		if err := removeReturnRules(rules); err != nil {
			return err
		}
		return note(h.card, func(j *Journal) { j.ReturnRules = nil })
	}
	for i, r := range rules {
		if err := addReturn(r, l.Attrs().Index, a.CardAddrs()[i]); err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	return undo, nil
}

func addReturn(r ReturnRule, index int, card netip.Addr) error {
	way := netdev.DefaultVia(index, card, r.Table)
	replace := func() error { return netlink.RouteReplace(&way) }
	if r.From.Is4() {
		way.Gw = nil // as lockMTU has it
		replace = func() error { return netdev.ReplaceRoute(way, true) }
	}
	if err := replace(); err != nil {
		return fmt.Errorf("default route via %s in table %d: %w", card, r.Table, err)
	}
	if err := netlink.RuleAdd(r.rule()); err != nil {
		return fmt.Errorf("rule from %s lookup %d: %w", r.From, r.Table, err)
	}
	return nil
}

// removeReturnRules is content with rules and routes that are gone already.
func removeReturnRules(rules []ReturnRule) error {
	var errs []error
	for _, r := range rules {
		if err := netlink.RuleDel(r.rule()); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) {
			errs = append(errs, fmt.Errorf("remove rule from %s lookup %d: %w", r.From, r.Table, err))
		}
		routes, _ := netlink.RouteListFiltered(r.family(), &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
		for i := range routes {
			errs = append(errs, delRoutes([]*netlink.Route{&routes[i]}))
		}
	}
	return errors.Join(errs...)
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
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
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
	return 0, fmt.Errorf("no free routing table: %d to %d are in use", firstReturnTable, lastReturnTable)
}
