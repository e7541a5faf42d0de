package agent

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 77)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
		dhcpv4.WithLeaseTime(3600),
	}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func network(s string) *net.IPNet {
	_, n, _ := net.ParseCIDR(s)
	return n
}

var linkPrefixes = []netip.Prefix{prefix("10.116.0.1/31"), prefix("fd74:6f65::1/127")}

func TestLeaseRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		modifier dhcpv4.Modifier
		want     string
	}{
		"multicast address": {dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)), "224.0.0.1"},
		"no address":        {dhcpv4.WithYourIP(net.IPv4zero), "0.0.0.0"},
		"loopback":          {dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)), "127.0.0.1"},
		"the link's":        {dhcpv4.WithYourIP(net.IPv4(10, 116, 0, 0)), "10.116.0.0"},
		"mask with holes":   {dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0}), "ff00ff00"},
		"mask of nothing":   {dhcpv4.WithNetmask(net.IPMask{0, 0, 0, 0}), "network mask"},
		"no time":           {dhcpv4.WithLeaseTime(0), "lease of 0s"},
		"no server":         {dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4zero)), "server identifier"},
	} {
		if _, err := newLease(ack(t, tt.modifier), 0, linkPrefixes); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.want)
		}
	}
}

func TestLeaseTimes(t *testing.T) {
	seconds := func(code uint8, d time.Duration) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.GenericOptionCode(code), Value: dhcpv4.Duration(d)})
	}
	for name, tt := range map[string]struct {
		with          []dhcpv4.Modifier
		lease, t1, t2 time.Duration
		lasts         string
	}{
		"defaults":    {nil, time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second, "for 1h0m0s"},
		"given":       {[]dhcpv4.Modifier{seconds(58, 10*time.Minute), seconds(59, 20*time.Minute)}, time.Hour, 10 * time.Minute, 20 * time.Minute, "for 1h0m0s"},
		"nonsense":    {[]dhcpv4.Modifier{seconds(58, 50*time.Minute), seconds(59, 20*time.Minute)}, time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second, "for 1h0m0s"},
		"endless":     {[]dhcpv4.Modifier{seconds(51, endless)}, endless, endless / 2, endless / 8 * 7, "no end"},
		"20 seconds":  {[]dhcpv4.Modifier{seconds(51, 20*time.Second)}, 20 * time.Second, 10 * time.Second, 17500 * time.Millisecond, "for 20s"},
		"ever asking": {[]dhcpv4.Modifier{seconds(58, 0), seconds(59, time.Second)}, time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second, "for 1h0m0s"},
	} {
		l, err := newLease(ack(t, tt.with...), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if l.time != tt.lease || l.t1 != tt.t1 || l.t2 != tt.t2 {
			t.Errorf("%s: %v %v %v, want %v %v %v", name, l.time, l.t1, l.t2, tt.lease, tt.t1, tt.t2)
		}
		if got := lasts(l.time); got != tt.lasts {
			t.Errorf("%s: %q, want %q", name, got, tt.lasts)
		}
	}
}

// TestLeaseRoutes: classless routes replace the router (RFC 3442), and none
// may be more exact than the link's own.
func TestLeaseRoutes(t *testing.T) {
	gw := net.IPv4(192, 0, 2, 1)
	l, err := newLease(ack(t, dhcpv4.WithRouter(gw)), 0, linkPrefixes)
	if err != nil || len(l.routes) != 1 || l.routes[0].String() != "0.0.0.0/0 via 192.0.2.1" {
		t.Errorf("router: %v %v", l, err)
	}
	l, err = newLease(ack(t, dhcpv4.WithRouter(gw), dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: network("198.51.100.0/24"), Router: gw},
		&dhcpv4.Route{Dest: network("203.0.113.0/24"), Router: net.IPv4zero},
		&dhcpv4.Route{Dest: network("10.116.0.0/32"), Router: gw},
		&dhcpv4.Route{Dest: network("10.116.0.0/31"), Router: gw},
		&dhcpv4.Route{Dest: network("10.0.0.0/8"), Router: gw},
		&dhcpv4.Route{Dest: network("192.0.2.128/25"), Router: net.IPv4(224, 0, 0, 1)},
	))), 0, linkPrefixes)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range l.routes {
		got = append(got, r.String())
	}
	if s := strings.Join(got, ", "); s != "198.51.100.0/24 via 192.0.2.1, 203.0.113.0/24, 10.0.0.0/8 via 192.0.2.1" {
		t.Errorf("routes %s", s)
	}
}

// TestLeaseWords: what a server says does not become lines of resolv.conf.
func TestLeaseWords(t *testing.T) {
	l, err := newLease(ack(t, dhcpv4.WithOption(dhcpv4.OptDomainName("a\nnameserver 192.0.2.66")),
		dhcpv4.WithDNS(net.IPv4(127, 0, 0, 1), net.IPv4(192, 0, 2, 53))), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(resolvConf(l.dns, l.search))
	if strings.Contains(text, "66") || strings.Contains(text, "127") || !strings.Contains(text, "nameserver 192.0.2.53\n") {
		t.Errorf("resolv.conf %q", text)
	}
}

// TestRetryAt: half of what is left until the next turning point, at least a
// minute or a 32nd of the lease, and never beyond it.
func TestRetryAt(t *testing.T) {
	hour := &lease{start: time.Hour, time: time.Hour, t1: 30 * time.Minute, t2: 50 * time.Minute}
	short := &lease{start: time.Hour, time: 120 * time.Second, t1: time.Minute, t2: 105 * time.Second}
	for _, tt := range []struct {
		l           *lease
		after, want time.Duration
	}{
		{hour, 30 * time.Minute, 40 * time.Minute},
		{hour, 49*time.Minute + 30*time.Second, 50 * time.Minute},
		{hour, 50 * time.Minute, 55 * time.Minute},
		{hour, 59*time.Minute + 30*time.Second, time.Hour},
		{short, 60 * time.Second, 82500 * time.Millisecond},
		{short, 104 * time.Second, 105 * time.Second},
		{short, 105 * time.Second, 112500 * time.Millisecond},
	} {
		if got := tt.l.retryAt(tt.l.start+tt.after) - tt.l.start; got != tt.want {
			t.Errorf("lease of %v, after %v: %v, want %v", tt.l.time, tt.after, got, tt.want)
		}
	}
}

// FuzzLease: whatever a server sends, no panic and nothing of the link's.
func FuzzLease(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1))).ToBytes())
	f.Add(ack(f, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: network("0.0.0.0/0"), Router: net.IPv4zero}))).ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		l, err := newLease(m, 0, linkPrefixes)
		if err != nil {
			return
		}
		if within(linkPrefixes, l.prefix.Addr()) || !l.prefix.IsValid() || l.t1 >= l.t2 || l.t2 >= l.time {
			t.Fatalf("accepted %+v", l)
		}
		for _, r := range l.routes {
			if hijacks(r.dst, linkPrefixes) || !r.dst.IsValid() {
				t.Fatalf("accepted route %v", r)
			}
		}
	})
}
