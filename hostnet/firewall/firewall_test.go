package firewall

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/internal/ownnet"
)

// A firewall that lets the link pass is no fault, however strict it is; of one
// that drops the chain is named, with a rule that opens it.
func TestProbe(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	const input = "table inet t { chain in { type filter hook input priority 0; policy drop; "
	for _, c := range []struct {
		name, rules string
		toCard      bool
		chains, fix string // "" where packets pass
	}{
		{name: "none"},
		{name: "established", rules: input + "ct state established accept; }; }"},
		{name: "policy", rules: input + "}; }", chains: "table inet t chain in (policy drop)",
			fix: `sudo nft insert rule inet t in iifname '"toe*"' accept`},
		{name: "rule of another chain", rules: "table ip t { chain x { tcp sport 7 drop; }; " +
			"chain in { type filter hook prerouting priority 0; jump x; }; }",
			chains: "table ip t chain in (a rule that drops)",
			fix:    `sudo nft insert rule ip t in iifname '"toe*"' accept`},
		{name: "output", toCard: true, rules: "table inet t { chain out { type filter hook output " +
			"priority 0; oifname != lo drop; }; }", chains: "table inet t chain out (a rule that drops)",
			fix: `sudo nft insert rule inet t out oifname '"toe*"' accept`},
		{name: "reject", toCard: true, rules: "table inet t { chain out { type filter hook output " +
			"priority 0; reject; }; }", chains: "table inet t chain out (a rule that drops)",
			fix: `sudo nft insert rule inet t out oifname '"toe*"' accept`},
	} {
		t.Run(c.name, func(t *testing.T) {
			ownnet.Run(t, func() {
				if c.rules != "" {
					if out, err := exec.Command("nft", c.rules).CombinedOutput(); err != nil {
						t.Errorf("nft: %v: %s", err, out)
						return
					}
				}
				check(t, Probe(t.Context()), c.toCard, c.chains, c.fix)
				if all, err := netlink.LinkList(); err != nil || len(all) != 1 {
					t.Errorf("interfaces afterwards: %d, %v; want loopback only", len(all), err)
				}
			})
		})
	}
}

func check(t *testing.T, err error, toCard bool, chains, fix string) {
	t.Helper()
	if chains == "" {
		if err != nil {
			t.Errorf("%v, want none", err)
		}
		return
	}
	var d *Dropped
	if !errors.As(err, &d) || d.ToCard != toCard || !strings.HasSuffix(d.Error(), "look at "+chains) ||
		d.Fix() != fix {
		t.Errorf("%+v: %v; want chains %s, fix %s", d, err, chains, fix)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ownnet.Run(t, func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := Probe(ctx); !errors.Is(err, context.Canceled) || time.Since(start) > patience/2 {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestSynACK(t *testing.T) {
	to := netip.MustParseAddrPort("10.116.0.1:7")
	syn := bytes.Join([][]byte{
		{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 116, 0, 0, 10, 116, 0, 1},
		{0x12, 0x34, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0},
	}, nil)
	got := synACK(syn, to)
	if got == nil || !bytes.Equal(got[20:24], []byte{0, 7, 0x12, 0x34}) ||
		!bytes.Equal(got[28:34], []byte{0, 0, 0, 10, 0x50, 0x12}) {
		t.Fatalf("answer % x", got)
	}
	if s := sum(0, got[:20]); s != 0xffff {
		t.Errorf("header checksum leaves %#x", s)
	}
	for _, other := range []string{"10.116.0.1:8", "10.116.0.2:7"} {
		if synACK(syn, netip.MustParseAddrPort(other)) != nil {
			t.Errorf("an answer to what is not for %s", other)
		}
	}
	syn[33] = 0x12 // SYN and ACK
	if synACK(syn, to) != nil {
		t.Error("an answer to an answer")
	}
}

// Whatever is read from the interface gets an answer or none.
func FuzzSynACK(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x60, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0x4f, 6}, 20))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if got := synACK(packet, netip.MustParseAddrPort("10.116.0.1:7")); got != nil && len(got) != 40 {
			t.Errorf("% x: %d bytes", packet, len(got))
		}
	})
}
