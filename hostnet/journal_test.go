package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/journal"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/link/tun"
)

// stand is a link for a test, of card a or of card b.
type stand struct {
	name, iface string
	down        string // an interface that is down
	index       int
	addrs       store.LinkAddrs
}

func newStand(t *testing.T, name string, n int) stand {
	t.Helper()
	s := stand{name: name, iface: "toe" + fmt.Sprint(n), down: "down" + fmt.Sprint(n), addrs: store.LinkAddrs{
		IPv4: netip.MustParsePrefix(fmt.Sprintf("10.116.%d.0/31", n)), IPv6: netip.MustParsePrefix(fmt.Sprintf("fd74:6f65::%d:0/127", n+1)),
	}}
	files, err := tun.Open(tun.Options{Name: s.iface, Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files[0].Close() })
	if err := netdev.Configure(s.iface, s.addrs); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName(s.iface)
	if err != nil {
		t.Fatal(err)
	}
	s.index = l.Attrs().Index
	a := netlink.NewLinkAttrs()
	a.Name = s.down
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err != nil {
		t.Fatal(err)
	}
	return s
}

// changes are one of each kind, as a card makes them; there says whether it is
// on the host, and edit is what an administrator does to it.
type changeCase struct {
	make  func(s stand) journal.Change
	there func(t *testing.T, s stand) bool
	edit  func(t *testing.T, s stand)
	// kept: what the administrator's edit leaves is still there after an undo.
	kept func(t *testing.T, s stand) bool
	lone bool // only one card can have it
}

const testTable = firstReturnTable + 7

func changeCases(etc string) map[string]changeCase {
	file := filepath.Join(etc, "some.conf")
	read := func() string { b, _ := os.ReadFile(file); return string(b) }
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mac := func(s stand) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(s.index)} }
	vtap := func(s stand) string { return "toe-" + s.name }
	return map[string]changeCase{
		"file": {
			make: func(s stand) journal.Change {
				f, err := saveFile(file, []byte("of "+s.name))
				if err != nil {
					panic(err)
				}
				return f
			},
			there: func(_ *testing.T, s stand) bool { return read() == "of "+s.name },
			edit:  func(t *testing.T, _ stand) { must(t, os.WriteFile(file, []byte("edited"), 0o644)) },
			kept:  func(*testing.T, stand) bool { return read() == "edited" },
			lone:  true,
		},
		"macvtap": {
			make: func(s stand) journal.Change {
				return &macvtap{Name: vtap(s), Lower: "eth7", MAC: mac(s), MTU: 1500}
			},
			there: func(_ *testing.T, s stand) bool { return netdev.Exists(vtap(s)) },
			edit: func(t *testing.T, s stand) {
				l, err := netlink.LinkByName(vtap(s))
				must(t, err)
				must(t, netlink.LinkDel(l))
				a := netlink.NewLinkAttrs()
				a.Name = vtap(s)
				must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
			},
			kept: func(_ *testing.T, s stand) bool {
				l, err := netlink.LinkByName(vtap(s))
				if err == nil {
					_ = netlink.LinkDel(l)
				}
				return err == nil && l.Type() == "bridge"
			},
		},
		"routes": {
			make: func(s stand) journal.Change {
				return &routes{Index: s.index, Via: s.addrs.CardAddrs()[0], To: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("203.0.%d.0/24", s.index))}}
			},
			there: func(t *testing.T, s stand) bool { return hasRoute(t, s.index, unix.RT_TABLE_MAIN) },
			edit: func(t *testing.T, s stand) {
				must(t, netlink.RouteReplace(&netlink.Route{
					LinkIndex: s.index, Protocol: unix.RTPROT_STATIC, Gw: s.addrs.CardAddrs()[0].AsSlice(),
					Dst: netdev.IPNet(netip.MustParsePrefix(fmt.Sprintf("203.0.%d.0/24", s.index)))}))
			},
			kept: func(t *testing.T, s stand) bool {
				found, err := netlink.RouteGet(net.ParseIP(fmt.Sprintf("203.0.%d.9", s.index)))
				ok := err == nil && len(found) == 1 && found[0].LinkIndex == s.index
				_ = netlink.RouteDel(&netlink.Route{LinkIndex: s.index, Dst: netdev.IPNet(netip.MustParsePrefix(fmt.Sprintf("203.0.%d.0/24", s.index)))})
				return ok
			},
		},
		// Both cards have one table: that of A was given to B.
		"return route": {
			make: func(s stand) journal.Change {
				return &returnRoute{From: s.addrs.HostAddrs()[0], Via: s.addrs.CardAddrs()[0], Index: s.index, Table: testTable}
			},
			there: func(t *testing.T, s stand) bool {
				return hasRule(t, s.addrs.HostAddrs()[0]) && hasRoute(t, s.index, testTable)
			},
			edit: func(t *testing.T, s stand) {
				// Another rule for the same address, and another route in the table.
				r := netlink.NewRule()
				r.Family, r.Priority, r.Table = unix.AF_INET, returnPriority+1, 100
				r.Src = netdev.IPNet(netip.PrefixFrom(s.addrs.HostAddrs()[0], 32))
				must(t, netlink.RuleAdd(r))
			},
			kept: func(t *testing.T, s stand) bool {
				ok := hasRule(t, s.addrs.HostAddrs()[0]) && !hasRoute(t, s.index, testTable)
				r := netlink.NewRule()
				r.Family, r.Priority, r.Table = unix.AF_INET, returnPriority+1, 100
				r.Src = netdev.IPNet(netip.PrefixFrom(s.addrs.HostAddrs()[0], 32))
				_ = netlink.RuleDel(r)
				return ok
			},
		},
		"up": {
			make: func(s stand) journal.Change { return &up{Name: s.down, Index: indexOf(s.down)} },
			there: func(t *testing.T, s stand) bool {
				l, err := netlink.LinkByName(s.down)
				must(t, err)
				return l.Attrs().Flags&net.FlagUp != 0
			},
			edit: func(t *testing.T, s stand) { // another interface with the name, which is up
				l, err := netlink.LinkByName(s.down)
				must(t, err)
				must(t, netlink.LinkDel(l))
				a := netlink.NewLinkAttrs()
				a.Name = s.down
				must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
				l, err = netlink.LinkByName(s.down)
				must(t, err)
				must(t, netlink.LinkSetUp(l))
			},
			kept: func(t *testing.T, s stand) bool {
				l, err := netlink.LinkByName(s.down)
				must(t, err)
				ok := l.Attrs().Flags&net.FlagUp != 0
				must(t, netlink.LinkSetDown(l))
				return ok
			},
		},
		"udp answers": {
			make: func(s stand) journal.Change {
				return &udpAnswers{Table: udpTable(s.name), Interface: s.iface, From: s.addrs.HostAddrs()}
			},
			there: func(t *testing.T, s stand) bool { return hasTable(t, udpTable(s.name)) },
		},
	}
}

// Each kind of change is undone: by the process that made it, by the next one,
// and only by its own card and in its own boot.
func TestEachKindOfChange(t *testing.T) {
	if !ownHost(t) {
		return
	}
	lower := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer7"}
	lower.Name = "eth7"
	if err := netlink.LinkAdd(lower); err != nil {
		t.Fatal(err)
	}
	a, b := newStand(t, "a", 0), newStand(t, "b", 1)
	for name, c := range changeCases(t.TempDir()) {
		t.Run(name, func(t *testing.T) { eachWay(t, c, a, b) })
	}
}

func eachWay(t *testing.T, c changeCase, a, b stand) {
	dir := t.TempDir()
	path := func(s stand) string { return filepath.Join(dir, s.name+".json") }
	of := func(s stand) *journal.Journal { return journal.Open(path(s), s.name, kinds) }
	do := func(t *testing.T, s stand) func() error {
		t.Helper()
		undo, err := of(s).Do(c.make(s))
		if err != nil {
			t.Fatal(err)
		}
		if !c.there(t, s) {
			t.Fatal("it is not on the host")
		}
		return undo
	}
	undoes := func(t *testing.T, undo func() error) {
		t.Helper()
		for range 2 {
			if err := undo(); err != nil {
				t.Error(err)
			}
		}
	}
	gone := func(t *testing.T, s stand) {
		t.Helper()
		if c.there(t, s) {
			t.Error("it is still on the host")
		}
		if _, err := os.Stat(path(s)); err == nil {
			t.Error("the journal is still there")
		}
	}
	t.Run("undo", func(t *testing.T) { undoes(t, do(t, a)); gone(t, a) })
	t.Run("undo after a kill", func(t *testing.T) { do(t, a); undoes(t, of(a).Undo); gone(t, a) })
	t.Run("in another boot", func(t *testing.T) {
		undo := do(t, a)
		otherBoot(t, path(a))
		undoes(t, of(a).Undo)
		if lasts := c.make(a).Lasts(); c.there(t, a) == lasts {
			t.Errorf("there: %v, and it lasts: %v", !lasts, lasts)
		}
		undoes(t, undo)
	})
	if c.edit != nil {
		t.Run("modified in the meantime", func(t *testing.T) {
			do(t, a)
			c.edit(t, a)
			undoes(t, of(a).Undo)
			if !c.kept(t, a) {
				t.Error("the modification was undone")
			}
		})
	}
	if !c.lone {
		t.Run("two cards", func(t *testing.T) {
			undoA := do(t, a)
			undoB := do(t, b)
			undoes(t, of(a).Undo)
			gone(t, a)
			if !c.there(t, b) {
				t.Error("card b has lost its own")
			}
			undoes(t, undoA)
			undoes(t, undoB)
			gone(t, b)
		})
	}
}

// otherBoot makes a journal one of another boot.
func otherBoot(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), strings.TrimSpace(string(boot)), "another")
	if text == string(data) {
		t.Fatalf("the journal names no boot: %s", data)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func indexOf(name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0
	}
	return l.Attrs().Index
}

func hasRoute(t *testing.T, index, table int) bool {
	t.Helper()
	all, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: table, LinkIndex: index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Protocol == netdev.RouteProtocol {
			return true
		}
	}
	return false
}

func hasRule(t *testing.T, from netip.Addr) bool {
	t.Helper()
	all, err := netlink.RuleList(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Src != nil && r.Src.IP.Equal(from.AsSlice()) {
			return true
		}
	}
	return false
}
