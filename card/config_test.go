package card

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// TestWhatTheCardIsTold: addresses and names are put in, one of each family.
func TestWhatTheCardIsTold(t *testing.T) {
	spec, err := Parse("card.yaml", []byte(speaking))
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) LinkAddrs {
		return LinkAddrs{IPv4: netip.MustParsePrefix(s + "/31"), IPv6: netip.MustParsePrefix("fd74:6f65::2/127")}
	}
	host, exec := at("10.116.0.2"), at("10.116.9.8")
	got, err := publish(&spec, Links{Link: &host, Exec: &exec}, map[string]string{devLink: "pci0", devExec: "pci1"})
	if err != nil {
		t.Fatal(err)
	}
	ports := func(s ...string) (out []netip.AddrPort) {
		for _, v := range s {
			out = append(out, netip.MustParseAddrPort(v))
		}
		return out
	}
	want := []control.Publish{
		{Protocol: "tcp", Port: 8080, Link: "pci0", To: ports("10.116.0.2:8080", "[fd74:6f65::2]:8080")},
		{Protocol: "tcp", Port: 8443, Link: "pci1", To: ports("10.116.9.8:443", "[fd74:6f65::2]:443"), CardSource: true},
		{Protocol: "udp", Port: 5300, Link: "pci0", To: ports("10.116.0.2:53")},
		{Protocol: "tcp", Port: 90, Link: "pci0", To: ports("[2001:db8::7]:80"), CardSource: true},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	o := spec.Offload.config()
	if !o.Preserve || !o.MDNS || o.Congestion != "bbr" || !slices.Equal(o.Bypass.TCP, []control.PortRange{{First: 22, Last: 22}, {First: 8000, Last: 8010}}) ||
		!slices.Equal(o.Bypass.DSCP, []int{8, 46, 1}) || len(o.Bypass.Addresses) != 3 || len(o.Bypass.UDP) != 1 {
		t.Errorf("offload: %+v", o)
	}
	// A card without root.
	if _, err := publish(&spec, Links{Exec: &exec}, map[string]string{devExec: "pci0"}); err == nil || !strings.Contains(err.Error(), "in: exec") {
		t.Errorf("without a link into the host's network: %v", err)
	}
}

// TestHearsNoMoreThanItCanHold: what a card says of itself is bounded.
func TestHearsNoMoreThanItCanHold(t *testing.T) {
	many := map[string]uint64{strings.Repeat("x", 1000): 1}
	for i := range 1000 {
		many[strings.Repeat("y", i%60)+string(rune('a'+i%26))] = 1
	}
	var st OffloadStatus
	hear(&st, &cardpb.Offload{Mode: control.ModeEndpoint, Running: true, Tcp: &cardpb.OffloadTCP{Open: 3, Drops: many}, Udp: &cardpb.OffloadUDP{Drops: map[string]uint64{"table full": 9}}})
	if n := len(st.TCP.Drops); n > maxCauses {
		t.Errorf("%d causes", n)
	}
	if d := st.Drops(); d[0] != (Drop{"udp", "table full", 9}) {
		t.Errorf("first of all: %+v", d[0])
	}
	data, err := json.Marshal(OffloadStatus{Mode: control.ModeRouter})
	if err != nil || string(data) != `{"mode":"router"}` {
		t.Errorf("router mode shows %s, %v", data, err)
	}
	st = OffloadStatus{}
	hear(&st, nil)
	if st.Running || st.TCP != nil {
		t.Errorf("of nothing: %+v", st)
	}
}
