package supervisor

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/feature"
)

// TestWhatTheCardIsTold: addresses and names are put in, one of each family.
func TestWhatTheCardIsTold(t *testing.T) {
	spec, err := spec.Parse("card.yaml", []byte(speaking))
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) store.LinkAddrs {
		return store.LinkAddrs{IPv4: netip.MustParsePrefix(s + "/31"), IPv6: netip.MustParsePrefix("fd74:6f65::2/127")}
	}
	host, exec := at("10.116.0.2"), at("10.116.9.8")
	got, err := publish(&spec, store.Links{Link: &host, Exec: &exec}, map[string]string{store.LinkDevice: "pci0", store.ExecDevice: "pci1"})
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
	o := spec.Offload.Config()
	if !o.Preserve || !o.MDNS || o.Congestion != "bbr" || !slices.Equal(o.Bypass.TCP, []feature.PortRange{{First: 22, Last: 22}, {First: 8000, Last: 8010}}) ||
		!slices.Equal(o.Bypass.DSCP, []feature.DSCP{8, 46, 1}) || len(o.Bypass.Addresses) != 3 || len(o.Bypass.UDP) != 1 {
		t.Errorf("offload: %+v", o)
	}
	// A card without root.
	if _, err := publish(&spec, store.Links{Exec: &exec}, map[string]string{store.ExecDevice: "pci0"}); err == nil || !strings.Contains(err.Error(), "in: exec") {
		t.Errorf("without a link into the host's network: %v", err)
	}
}

// TestHearsNoMoreThanItCanHold: what a card says of itself is bounded.
func TestHearsNoMoreThanItCanHold(t *testing.T) {
	many := map[string]uint64{strings.Repeat("x", 1000): 1}
	for i := range 1000 {
		many[strings.Repeat("y", i%60)+string(rune('a'+i%26))] = 1
	}
	var st status.Offload
	hear(&st, &cardpb.Offload{Mode: control.ModeEndpoint, Running: true, Tcp: &cardpb.OffloadTCP{Open: 3, Drops: many}, Udp: &cardpb.OffloadUDP{Drops: map[string]uint64{"table full": 9}}})
	if n := len(st.TCP.Drops); n > maxCauses {
		t.Errorf("%d causes", n)
	}
	if d := st.Drops(); d[0] != (status.Drop{Protocol: "udp", Cause: "table full", Count: 9}) {
		t.Errorf("first of all: %+v", d[0])
	}
	data, err := json.Marshal(status.Offload{Mode: control.ModeRouter})
	if err != nil || string(data) != `{"mode":"router"}` {
		t.Errorf("router mode shows %s, %v", data, err)
	}
	st = status.Offload{}
	hear(&st, nil)
	if st.Running || st.TCP != nil {
		t.Errorf("of nothing: %+v", st)
	}
}

const speaking = `name: front
link: {ipv4: 10.116.0.2/31, ipv6: "fd74:6f65::2/127"}
offload:
  mode: endpoint
  source: preserve
  congestion: bbr
  mdns: true
  bypass:
    tcp: [22, "8000-8010"]
    udp: [123]
    addresses: [10.0.0.0/8, 192.0.2.7, "2001:db8::/32"]
    dscp: [cs1, 46, le]
publish:
  - {port: 8080}
  - {port: 8443, to: 443, in: exec, source: card}
  - {protocol: udp, port: 5300, to: 10.116.0.2:53}
  - {port: 90, to: "[2001:db8::7]:80", source: card}
`
