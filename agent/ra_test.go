package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/ipv6"

	"github.com/toe-project/toe/control"
)

// rawAdvertisement is a router's: prefix 2001:db8:1::/64, one name server.
func rawAdvertisement() []byte {
	p := []byte{
		icmpRouterAdvertisement, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0,
		// Prefix information (RFC 4861, section 4.6.2).
		3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0,
	}
	p = append(p, netip.MustParseAddr("2001:db8:1::").AsSlice()...)
	p = append(p, optRDNSS, 3, 0, 0, 0, 0, 0x02, 0x58) // 600 s
	return append(p, netip.MustParseAddr("2001:db8:1::53").AsSlice()...)
}

// option is one of an advertisement: kind, length, two reserved bytes, 600 s.
func option(kind byte, value []byte) []byte {
	for len(value)%8 != 0 {
		value = append(value, 0)
	}
	return append([]byte{kind, byte(1 + len(value)/8), 0, 0, 0, 0, 0x02, 0x58}, value...)
}

func texts[T comparable](list []advertised[T]) []string {
	out := []string{}
	for _, a := range list {
		out = append(out, fmt.Sprint("{", a.value, " ", a.lifetime, "}"))
	}
	return out
}

func TestParseAdvertisement(t *testing.T) {
	rdnss := func(addresses ...string) []byte {
		var v []byte
		for _, a := range addresses {
			v = append(v, netip.MustParseAddr(a).AsSlice()...)
		}
		return option(optRDNSS, v)
	}
	dnssl := func(v string) []byte { return option(optDNSSL, []byte(v)) }
	flags := func(p []byte, f byte) []byte { p[5] = f; return p }
	head := func() []byte { return slices.Clone(rawAdvertisement()[:raHeader]) }
	for name, tt := range map[string]struct {
		p    []byte
		want string // servers, domains, M, O, prefix; nil when malformed
	}{
		"a usual one":      {rawAdvertisement(), "[{2001:db8:1::53 10m0s}] [] false false true"},
		"M":                {flags(head(), 0x80), "[] [] true false false"},
		"O":                {flags(head(), 0x40), "[] [] false true false"},
		"link-local RDNSS": {append(head(), rdnss("fe80::1")...), "[{fe80::1 10m0s}] [] false false false"},
		"hostile RDNSS":    {append(head(), rdnss("::1", "ff02::1", "::ffff:192.0.2.1", "::")...), "[] [] false false false"},
		"DNSSL":            {append(head(), dnssl("\x07example\x03org\x00\x03lan\x00")...), "[] [{example.org 10m0s} {lan 10m0s}] false false false"},
		"cut DNSSL":        {append(head(), dnssl("\x07example\x3forg")...), "[] [] false false false"},
		"hostile DNSSL":    {append(head(), dnssl("\x05a\nb c\x00\x03lan\x00")...), "[] [{lan 10m0s}] false false false"},
		"no A flag":        {func() []byte { p := rawAdvertisement(); p[19] = 0x80; return p }(), "[{2001:db8:1::53 10m0s}] [] false false false"},
		"unknown option":   {append(head(), option(200, make([]byte, 8))...), "[] [] false false false"},
		"empty":            {nil, "nil"},
		"short":            {rawAdvertisement()[:10], "nil"},
		"cut option":       {rawAdvertisement()[:60], "nil"},
		"length zero":      {append(head(), 3, 0, 0, 0, 0, 0, 0, 0), "nil"},
		"odd end":          {append(head(), 3), "nil"},
		"another type":     {append([]byte{133}, rawAdvertisement()[1:]...), "nil"},
	} {
		got := "nil"
		if a := parseAdvertisement(tt.p); a != nil {
			got = fmt.Sprint(texts(a.servers), texts(a.domains), a.managed, a.other, a.prefix)
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func FuzzParseAdvertisement(f *testing.F) {
	f.Add(rawAdvertisement())
	f.Add(rawAdvertisement()[:60])
	f.Add(append(rawAdvertisement(), option(optDNSSL, []byte("\x07example\x03org\x00"))...))
	f.Fuzz(func(t *testing.T, p []byte) {
		a := parseAdvertisement(p)
		if a == nil {
			return
		}
		if len(a.servers) > maxAdvertised || len(a.domains) > maxAdvertised {
			t.Fatalf("%d servers, %d domains", len(a.servers), len(a.domains))
		}
		for _, d := range a.domains {
			if !plainDomain(d.value) {
				t.Fatalf("domain %q", d.value)
			}
		}
	})
}

func FuzzParseARP(f *testing.F) {
	ours := netip.MustParseAddr("192.0.2.77")
	f.Add(arpPacket{arpRequest, [6]byte{2}, netip.IPv4Unspecified(), ours}.bytes())
	f.Add(arpPacket{2, [6]byte{2}, ours, ours}.bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		a, ok := parseARP(p)
		if !ok {
			return
		}
		if again, ok := parseARP(a.bytes()); !ok || again != a {
			t.Fatalf("%v became %v", a, again)
		}
		if a.contests(ours, a.mac) {
			t.Fatal("a port contests its own address")
		}
	})
}

// TestRouterAdvertisement: a port gets its address from the kernel and its
// name server from us.
func TestRouterAdvertisement(t *testing.T) {
	wire := newSpace(t)
	cable(t, "cable0", wanMAC, wire, "srv", "")
	log := NewLog(t.Output())
	sys := sysctls{"/proc/sys", log}
	sys.late(256 << 20)
	p := newPort(control.Port{Name: "wan", MAC: wanMAC, Addresses: []string{control.RA}}, handle(t), sys, log)
	heard := func(_ int, a *advertisement) { p.advertise(a) }
	if err := listenAdvertisements(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	if h := p.health(); h.state != starting {
		t.Errorf("health without a router %v", h)
	}
	stop := make(chan struct{})
	defer close(stop)
	go advertiseUntil(wire, stop)
	eventually(t, 8*time.Second, "address and name server", func() error {
		if h := p.health(); h.state != healthy {
			return errors.New(h.detail)
		}
		if !slices.Equal(p.dns(), []netip.Addr{netip.MustParseAddr("2001:db8:1::53")}) {
			return fmt.Errorf("dns %v", p.dns())
		}
		return nil
	})
}

// advertiseUntil is a router that speaks often.
func advertiseUntil(wire *space, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(200 * time.Millisecond):
		}
		_ = wire.try(func() error {
			conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			pc := ipv6.NewPacketConn(conn)
			dev, err := net.InterfaceByName("srv")
			if err != nil {
				return err
			}
			_ = pc.SetMulticastHopLimit(255)
			cm := &ipv6.ControlMessage{HopLimit: 255, IfIndex: dev.Index}
			_, err = pc.WriteTo(rawAdvertisement(), cm, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "srv"})
			return err
		})
	}
}

// TestAdvertisedLifetimes: named again is renewed, lifetime 0 is the end, and
// what another advertisement does not name lives on until its time has come.
func TestAdvertisedLifetimes(t *testing.T) {
	clock := &fakeClock{}
	p := newPort(control.Port{Name: "wan", Addresses: []string{control.RA}}, nil, sysctls{}, nil)
	p.guarded, p.clock = linkPrefixes, clock
	say := func(lifetime time.Duration, servers ...string) {
		a := new(advertisement)
		for _, s := range servers {
			a.servers = append(a.servers, advertised[netip.Addr]{netip.MustParseAddr(s), lifetime})
			a.domains = append(a.domains, advertised[string]{"lan", lifetime})
		}
		p.advertise(a)
	}
	knows := func(step, dns, search string) {
		t.Helper()
		if got, s := fmt.Sprint(p.dns()), fmt.Sprint(p.search()); got != dns || s != search {
			t.Errorf("%s: dns %s, search %s, want %s and %s", step, got, s, dns, search)
		}
	}
	say(time.Hour, "2001:db8::1", "fd74:6f65::1")
	say(2*time.Hour, "fe80::2")
	knows("two routers, without the link's", "[fe80::2%wan 2001:db8::1]", "[lan]")
	say(0, "2001:db8::1")
	knows("one taken back", "[fe80::2%wan]", "[]")
	clock.t = 3 * time.Hour
	knows("expired", "[]", "[]")
}
