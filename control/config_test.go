package control

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func sample(t testing.TB) *Config {
	t.Helper()
	keys, err := GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return &Config{
		Name: "edge",
		Links: []Link{{
			Name: "pci0", MAC: "02:00:00:00:00:01",
			Card: []netip.Prefix{netip.MustParsePrefix("10.116.0.1/31"), netip.MustParsePrefix("fd74:6f65::1/127")},
			Host: []netip.Addr{netip.MustParseAddr("10.116.0.0"), netip.MustParseAddr("fd74:6f65::")},
		}},
		Ports: []Port{{
			Name: "wan", MAC: "02:00:00:00:01:01", MTU: 1500,
			Addresses: []string{"dhcp", "ra", "192.0.2.2/24", "2001:db8::2/64"},
			Gateway:   []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")},
			DNS:       []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		}},
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Search: []string{"example.org"},
		TimeServers: []string{"ntp.example.org", "192.0.2.123"},
		Mode:        ModeRouter, NAT: true,
		AuthorizedKeys: []string{strings.TrimSpace(string(keys.SSHHostPublic)) + " someone"},
	}
}

func TestConfigRoundTrip(t *testing.T) {
	want := sample(t)
	got := roundTrip(t, want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if h := got.EffectiveHostname(); h != "edge" {
		t.Errorf("host name %q, want the card's name", h)
	}
	if p := got.Ports[0]; !p.HasDHCP() || !p.HasRA() || len(p.Static()) != 2 {
		t.Errorf("port %+v: dhcp, ra and two prefixes expected", p)
	}
}

// TestConfigRefusals has one fault a row; the error names field and value.
func TestConfigRefusals(t *testing.T) {
	prefix := netip.MustParsePrefix
	addr := netip.MustParseAddr
	refuses(t, sample, map[string]refusal{
		"no name":           {func(c *Config) { c.Name = "" }, []string{"name", `""`}},
		"name with slash":   {func(c *Config) { c.Name = "../x" }, []string{"name", "../x"}},
		"dotted host name":  {func(c *Config) { c.Hostname = "a.b" }, []string{"hostname", "a.b"}},
		"no mode":           {func(c *Config) { c.Mode = "" }, []string{"mode", "router"}},
		"no link":           {func(c *Config) { c.Links = nil }, []string{"links", "0 given"}},
		"interface name":    {func(c *Config) { c.Ports[0].Name = "a/b" }, []string{"ports[0].name", "a/b"}},
		"long name":         {func(c *Config) { c.Ports[0].Name = "abcdefghijklmnop" }, []string{"ports[0].name"}},
		"reserved name":     {func(c *Config) { c.Ports[0].Name = "all" }, []string{"ports[0].name", "all"}},
		"name twice":        {func(c *Config) { c.Ports[0].Name = "pci0" }, []string{"ports[0].name", "links[0]"}},
		"mac twice":         {func(c *Config) { c.Ports[0].MAC = c.Links[0].MAC }, []string{"ports[0].mac", "links[0]"}},
		"mac multicast":     {func(c *Config) { c.Ports[0].MAC = "03:00:00:00:00:01" }, []string{"ports[0].mac", "unicast"}},
		"mac zero":          {func(c *Config) { c.Ports[0].MAC = "00:00:00:00:00:00" }, []string{"ports[0].mac", "unicast"}},
		"mac spelling":      {func(c *Config) { c.Ports[0].MAC = "02-00-00-00-01-0A" }, []string{"02:00:00:00:01:0a"}},
		"mac long":          {func(c *Config) { c.Ports[0].MAC = "02:00:00:00:00:00:00:01" }, []string{"six bytes"}},
		"link /24":          {func(c *Config) { c.Links[0].Card[0] = prefix("10.0.0.1/24") }, []string{"links[0].card", "10.0.0.1/24"}},
		"link address none": {func(c *Config) { c.Links[0].Card[0] = netip.Prefix{} }, []string{"links[0].card", "/31"}},
		"host not peer":     {func(c *Config) { c.Links[0].Host[0] = addr("10.9.9.9") }, []string{"links[0].host", "10.9.9.9", "10.116.0.0 is missing"}},
		"host missing":      {func(c *Config) { c.Links[0].Host = c.Links[0].Host[:1] }, []string{"fd74:6f65:: is missing"}},
		"mtu low":           {func(c *Config) { c.Ports[0].MTU = 1279 }, []string{"ports[0].mtu", "1279", "1280"}},
		"mtu high":          {func(c *Config) { c.Ports[0].MTU = 65536 }, []string{"ports[0].mtu", "65536"}},
		"mtu negative":      {func(c *Config) { c.Ports[0].MTU = -1 }, []string{"ports[0].mtu", "-1"}},
		"address word":      {func(c *Config) { c.Ports[0].Addresses = []string{"auto"} }, []string{"ports[0].addresses", "auto", "dhcp"}},
		"address twice":     {func(c *Config) { c.Ports[0].Addresses = []string{"dhcp", "dhcp"} }, []string{"dhcp", "twice"}},
		"address bare":      {func(c *Config) { c.Ports[0].Addresses = []string{"192.0.2.2"} }, []string{"192.0.2.2", "/24"}},
		"address multicast": {func(c *Config) { c.Ports[0].Addresses = []string{"224.0.0.1/24"} }, []string{"224.0.0.1/24"}},
		"address mapped":    {func(c *Config) { c.Ports[0].Addresses = []string{"::ffff:192.0.2.2/120"} }, []string{"::ffff:192.0.2.2"}},
		"address of link":   {func(c *Config) { c.Ports[0].Addresses = []string{"10.116.0.1/24"} }, []string{"10.116.0.1/24", "already"}},
		"gateway outside":   {func(c *Config) { c.Ports[0].Gateway[0] = addr("198.51.100.1") }, []string{"ports[0].gateway", "198.51.100.1"}},
		"gateway itself":    {func(c *Config) { c.Ports[0].Gateway[0] = addr("192.0.2.2") }, []string{"ports[0].gateway", "192.0.2.2"}},
		"gateway invalid":   {func(c *Config) { c.Ports[0].Gateway[0] = netip.Addr{} }, []string{"ports[0].gateway"}},
		"two gateways":      {func(c *Config) { c.Ports[0].Gateway[1] = addr("192.0.2.3") }, []string{"second of its family"}},
		"dns loop":          {func(c *Config) { c.DNS = []netip.Addr{addr("10.116.0.1")} }, []string{"dns", "10.116.0.1", "itself"}},
		"dns loopback":      {func(c *Config) { c.Ports[0].DNS = []netip.Addr{addr("127.0.0.1")} }, []string{"ports[0].dns", "127.0.0.1"}},
		"search":            {func(c *Config) { c.Search = []string{"a b"} }, []string{"search", "a b"}},
		"time server":       {func(c *Config) { c.TimeServers = []string{"http://x"} }, []string{"time_servers", "http://x"}},
		"key":               {func(c *Config) { c.AuthorizedKeys = []string{"ssh-rsa x"} }, []string{"authorized_keys[0]", "ssh-rsa x"}},
		"key with options":  {func(c *Config) { c.AuthorizedKeys[0] = `command="x" ` + c.AuthorizedKeys[0] }, []string{"authorized_keys[0]", "options"}},
		"two keys a line":   {func(c *Config) { c.AuthorizedKeys[0] += "\n" + c.AuthorizedKeys[0] }, []string{"authorized_keys[0]", "one key"}},
	})
}

func TestConfigSyntax(t *testing.T) {
	good, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"two objects": string(good) + string(good),
		"truncated":   string(good[:len(good)/2]),
		"empty":       "",
		"null":        "null",
		"wrong type":  strings.Replace(string(good), `"nat": true`, `"nat": "yes"`, 1),
		"too long":    string(good) + strings.Repeat(" ", MaxConfig),
	} {
		if _, err := ParseConfig([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzParseConfig: no panic, and what is accepted survives a round trip.
func FuzzParseConfig(f *testing.F) {
	good, err := sample(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	if good, err = endpoint(f).Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"name":"a","mode":"router","nat":false,"links":[{"name":"pci0","mac":"02:00:00:00:00:01","card":["10.0.0.0/31"],"host":["10.0.0.1"]}]}`))
	f.Add([]byte(`{"links":[{"card":["255.255.255.255/31","ffff::/0"],"host":[""]}],"ports":[{"gateway":["::1%x"]}]}`))
	f.Add([]byte(`{"authorized_keys":["ssh-ed25519 AAAA"]}{}`))
	f.Add([]byte(`null`))
	f.Add(with(f, `"version": 1, "critical": ["offload.mdns", "nat"], "turbo": {"a": [{"b": 1}]}`))
	f.Add(with(f, `"critical": ["links.card.x", "a..b", ""]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseConfig(again)
		if err != nil {
			t.Fatalf("accepted once, refused after encoding: %v\n%s", err, again)
		}
		one, _ := json.Marshal(c)
		two, _ := json.Marshal(back)
		if string(one) != string(two) {
			t.Fatalf("changed by a round trip:\n%s\n%s", one, two)
		}
	})
}
