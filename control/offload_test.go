package control

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/toe-project/toe/feature"
)

// endpoint is the sample as an endpoint with one service of each protocol.
func endpoint(t testing.TB) *Config {
	t.Helper()
	c := sample(t)
	c.Mode = ModeEndpoint
	c.Offload = Offload{Offload: feature.Offload{MDNS: true, Congestion: "bbr", Bypass: feature.Bypass{
		TCP: []feature.PortRange{{First: 22, Last: 22}, {First: 8000, Last: 8010}}, UDP: []feature.PortRange{{First: 123, Last: 123}},
		Addresses: []feature.Range{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("2001:db8:9::/48")}},
		DSCP:      []feature.DSCP{8, 63},
	}}}
	c.Publish = []Publish{
		{Protocol: TCP, Port: 80, Link: "pci0", To: []netip.AddrPort{netip.MustParseAddrPort("10.116.0.0:8080"), netip.MustParseAddrPort("[fd74:6f65::]:8080")}},
		{Protocol: UDP, Port: 80, Link: "pci0", To: []netip.AddrPort{netip.MustParseAddrPort("172.17.0.2:53")}, CardSource: true},
	}
	return c
}

func TestEndpointRoundTrip(t *testing.T) {
	want := endpoint(t)
	got := roundTrip(t, want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !got.Endpoint() {
		t.Errorf("mode %q is not taken for endpoint", got.Mode)
	}
	if r := (feature.PortRange{First: 8000, Last: 8010}); r.String() != "8000-8010" || !r.Has(8010) || r.Has(7999) || r.Has(8011) {
		t.Errorf("range %s", r)
	}
}

// TestEndpointRefusals has one fault a row; the error names field and value.
func TestEndpointRefusals(t *testing.T) {
	to := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	many := func(n int) []feature.PortRange {
		out := make([]feature.PortRange, n)
		for i := range out {
			out[i] = feature.PortRange{First: 1, Last: 1}
		}
		return out
	}
	refuses(t, endpoint, map[string]refusal{
		"mode":                {func(c *Config) { c.Mode = "switch" }, []string{"mode", "switch", "endpoint"}},
		"preserve with NAT":   {func(c *Config) { c.Offload.Preserve = true }, []string{"offload.preserve", "nat"}},
		"congestion":          {func(c *Config) { c.Offload.Congestion = "vegas" }, []string{"offload.congestion", "vegas", "cubic, bbr, reno"}},
		"range backwards":     {func(c *Config) { c.Offload.Bypass.TCP[0] = feature.PortRange{First: 9, Last: 8} }, []string{"offload.bypass.tcp", "9-8"}},
		"range from zero":     {func(c *Config) { c.Offload.Bypass.UDP[0] = feature.PortRange{Last: 8} }, []string{"offload.bypass.udp", "0-8"}},
		"ranges without end":  {func(c *Config) { c.Offload.Bypass.TCP = many(65) }, []string{"offload.bypass.tcp", "65"}},
		"host bits":           {func(c *Config) { c.Offload.Bypass.Addresses[0].Prefix = netip.MustParsePrefix("10.1.0.0/8") }, []string{"offload.bypass.addresses", "10.1.0.0/8"}},
		"no prefix":           {func(c *Config) { c.Offload.Bypass.Addresses[0] = feature.Range{} }, []string{"offload.bypass.addresses"}},
		"mapped prefix":       {func(c *Config) { c.Offload.Bypass.Addresses[0].Prefix = netip.MustParsePrefix("::ffff:10.0.0.0/120") }, []string{"offload.bypass.addresses"}},
		"dscp high":           {func(c *Config) { c.Offload.Bypass.DSCP[0] = 64 }, []string{"offload.bypass.dscp", "64"}},
		"dscp negative":       {func(c *Config) { c.Offload.Bypass.DSCP[0] = -1 }, []string{"offload.bypass.dscp", "-1"}},
		"publish as a router": {func(c *Config) { c.Mode = ModeRouter }, []string{"publish", "router"}},
		"protocol":            {func(c *Config) { c.Publish[0].Protocol = "sctp" }, []string{"publish[0].protocol", "sctp"}},
		"port zero":           {func(c *Config) { c.Publish[0].Port = 0 }, []string{"publish[0].port", "0"}},
		"port twice":          {func(c *Config) { c.Publish[1].Protocol = TCP }, []string{"publish[1].port", "tcp port 80", "publish[0]"}},
		"DHCP client":         {func(c *Config) { c.Publish[1].Port = 68 }, []string{"publish[1].port", "68", "DHCP"}},
		"multicast DNS":       {func(c *Config) { c.Publish[1].Port = 5353 }, []string{"publish[1].port", "5353", "multicast DNS"}},
		"no such link":        {func(c *Config) { c.Publish[0].Link = "wan" }, []string{"publish[0].link", "wan"}},
		"to nothing at all":   {func(c *Config) { c.Publish[0].To = nil }, []string{"publish[0].to", "0 given"}},
		"to loopback":         {func(c *Config) { c.Publish[1].To = to("127.0.0.1:53") }, []string{"publish[1].to", "127.0.0.1:53", "loopback"}},
		"to the card":         {func(c *Config) { c.Publish[1].To = to("10.116.0.1:53") }, []string{"publish[1].to", "10.116.0.1:53"}},
		"to port zero":        {func(c *Config) { c.Publish[0].To = to("10.116.0.0:0") }, []string{"publish[0].to", "10.116.0.0:0"}},
		"to multicast":        {func(c *Config) { c.Publish[1].To = to("224.0.0.1:53") }, []string{"publish[1].to", "224.0.0.1:53"}},
		"to nothing":          {func(c *Config) { c.Publish[1].To = make([]netip.AddrPort, 1) }, []string{"publish[1].to"}},
		"to a family twice":   {func(c *Config) { c.Publish[0].To[1] = c.Publish[0].To[0] }, []string{"publish[0].to", "second of its family"}},
		"client far away":     {func(c *Config) { c.Publish[1].CardSource = false }, []string{"publish[1].to", "172.17.0.2:53", "answers"}},
		"publish without end": {func(c *Config) { c.Publish = make([]Publish, MaxPublish+1) }, []string{"publish", "257 given"}},
	})
}
