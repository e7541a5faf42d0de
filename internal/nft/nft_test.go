package nft

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/ownnet"
)

// list is what nft(8), which knows nothing of this package, reads in the kernel.
func list(t *testing.T, what ...string) string {
	out, err := exec.Command("nft", append([]string{"list"}, what...)...).CombinedOutput()
	if err != nil {
		t.Errorf("nft list %v: %v: %s", what, err, out)
	}
	return string(out)
}

// TestWords: each means in nft(8) what it says.
func TestWords(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	type word struct {
		rule []Match
		want string
	}
	all := []word{
		{[]Match{In("wan"), Out("pci0"), Accept}, `iifname "wan" oifname "pci0" accept`},
		{[]Match{Protocol(unix.IPPROTO_UDP), Ports(67, 68), Drop}, "udp sport 67 udp dport 68 drop"},
		{[]Match{Protocol(unix.IPPROTO_TCP), ToPort(443), Return}, "tcp dport 443 return"},
		{[]Match{Protocol(unix.IPPROTO_TCP), ToPorts(22, 22), Return}, "tcp dport 22 return"},
		{[]Match{Protocol(unix.IPPROTO_UDP), ToPorts(8000, 8010), Accept}, "udp dport 8000-8010 accept"},
		{[]Match{To(netip.MustParsePrefix("192.0.2.7/32")), Drop}, "ip daddr 192.0.2.7 drop"},
		{[]Match{To(netip.MustParsePrefix("10.0.0.0/9")), Drop}, "ip daddr 10.0.0.0/9 drop"},
		{[]Match{To(netip.MustParsePrefix("2001:db8::/33")), Drop}, "ip6 daddr 2001:db8::/33 drop"},
		{[]Match{Protocol(unix.IPPROTO_UDP), From(netip.MustParseAddrPort("192.0.2.7:53")), Drop}, "ip saddr 192.0.2.7 udp sport 53 drop"},
		{[]Match{Protocol(unix.IPPROTO_UDP), From(netip.MustParseAddrPort("[2001:db8::7]:53")), Drop}, "ip6 saddr 2001:db8::7 udp sport 53 drop"},
		{[]Match{Protocol(unix.IPPROTO_TCP), Flags(SYN|RST, SYN), Reset}, "tcp flags syn / syn,rst reject with tcp reset"},
		{[]Match{State(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Accept}, "ct state established,related accept"},
		{[]Match{Marked(0x10), SetMark(0x20), Jump("other")}, "meta mark 0x00000010 meta mark set 0x00000020 jump other"},
		{[]Match{Family(unix.NFPROTO_IPV6), {Network(8, 2), Mask(0xff, 0xc0), Unequal(0xfe, 0x80)}, Goto("other")}, "meta nfproto ipv6 @nh,64,16 & 0xffc0 != 0xfe80 goto other"},
		{[]Match{Unreachable(2)}, "reject with icmpx host-unreachable"},
	}
	ownnet.Run(t, func() {
		err := Replace("words", func(table Table) {
			table.Chain("other")
			seen := table.Set("seen", time.Minute, 9, nftables.TypeIPAddr)
			all = append(all, word{[]Match{Family(unix.NFPROTO_IPV4), {Network(16, 4), seen.Lacks()}, Drop}, "ip daddr != @seen drop"},
				word{[]Match{Family(unix.NFPROTO_IPV4), {Network(16, 4), seen.Update()}, Accept}, "update @seen { ip daddr } accept"})
			c := table.Chain("one")
			for _, r := range all {
				c.Add(r.rule...)
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
		if set := list(t, "set", "inet", "words", "seen"); !strings.Contains(set, "size 9") || !strings.Contains(set, "timeout 1m") || !strings.Contains(set, "type ipv4_addr") {
			t.Error(set)
		}
		_, body, _ := strings.Cut(list(t, "chain", "inet", "words", "one"), "chain one {\n")
		lines := strings.Split(body, "\n")
		for i, r := range all {
			if got := strings.TrimSpace(lines[i]); got != r.want {
				t.Errorf("%q, want %q", got, r.want)
			}
		}
	})
}

// TestReplace: the table as a whole and no other, and again; then it goes, and
// that it is not there is no error.
func TestReplace(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	ownnet.Run(t, func() {
		drop := nftables.ChainPolicyDrop
		for _, step := range []struct {
			do    func() error
			fails string
			want  []string
			not   []string
		}{
			{func() error { return Remove("mine") }, "", nil, []string{"mine"}},
			{func() error { return Replace("another", func(t Table) { t.Chain("kept") }) }, "", []string{"kept"}, nil},
			{func() error { return Replace("mine", func(t Table) { t.Chain("first").Add(Drop) }) }, "", []string{"chain first", "kept"}, nil},
			{func() error {
				return Replace("mine", func(t Table) {
					t.Base(nftables.Chain{Name: "second", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
				})
			}, "", []string{"chain second", "hook input priority filter; policy drop", "kept"}, []string{"first"}},
			{func() error { return Replace("mine", func(t Table) { t.Chain("third").Add(Jump("nowhere")) }) }, "nf_tables: replace table inet mine: ", []string{"second"}, []string{"third"}},
			{func() error { return Remove("mine") }, "", []string{"kept"}, []string{"mine"}},
		} {
			err := step.do()
			if (err != nil) != (step.fails != "") || err != nil && !strings.Contains(err.Error(), step.fails) {
				t.Errorf("%v, want %q", err, step.fails)
			}
			now := list(t, "ruleset")
			for _, w := range step.want {
				if !strings.Contains(now, w) {
					t.Errorf("no %q in\n%s", w, now)
				}
			}
			for _, w := range step.not {
				if strings.Contains(now, w) {
					t.Errorf("%q in\n%s", w, now)
				}
			}
		}
	})
}

// A kernel without nf_tables has no table to remove, which must not keep a card from coming up.
func TestKernelWithoutTables(t *testing.T) {
	for _, err := range []error{unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT} {
		if !hasNone(fmt.Errorf("netlink receive: %w", err)) {
			t.Errorf("%v: taken for an error", err)
		}
	}
	for _, err := range []error{nil, unix.EPERM, unix.EBUSY} {
		if hasNone(err) {
			t.Errorf("%v: taken for a kernel without nf_tables", err)
		}
	}
}
