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

// advertisement is a router's: prefix 2001:db8:1::/64, one name server.
func advertisement() []byte {
	p := []byte{
		icmpRouterAdvertisement, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0,
		3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0, // prefix information, RFC 4861, section 4.6.2
	}
	p = append(p, netip.MustParseAddr("2001:db8:1::").AsSlice()...)
	p = append(p, optRDNSS, 3, 0, 0, 0, 0, 0x02, 0x58) // 600 s
	return append(p, netip.MustParseAddr("2001:db8:1::53").AsSlice()...)
}

func TestParseRDNSS(t *testing.T) {
	now := time.Now()
	got := parseRDNSS(advertisement(), now)
	if len(got) != 1 || got[0].server.String() != "2001:db8:1::53" || got[0].until != now.Add(600*time.Second) {
		t.Errorf("got %v", got)
	}
	cut := advertisement()
	zero := slices.Clone(cut)
	zero[17] = 0
	for name, p := range map[string][]byte{
		"empty": nil, "short": cut[:10], "cut option": cut[:60], "length zero": zero,
		"another type": append([]byte{133}, cut[1:]...),
	} {
		if got := parseRDNSS(p, now); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzParseRDNSS(f *testing.F) {
	f.Add(advertisement())
	f.Add(advertisement()[:60])
	f.Fuzz(func(t *testing.T, p []byte) {
		if got := parseRDNSS(p, time.Now()); len(got) > maxAdvertised {
			t.Fatalf("%d servers", len(got))
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
	heard := func(_ int, servers []advertised) { p.advertise(servers) }
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
			_, err = pc.WriteTo(advertisement(), cm, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "srv"})
			return err
		})
	}
}

// TestAdvertisedLifetimes: named again is renewed, lifetime 0 is the end, and
// what another advertisement does not name lives on.
func TestAdvertisedLifetimes(t *testing.T) {
	one, two, link := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("fd74:6f65::1")
	p := newPort(control.Port{Name: "wan", Addresses: []string{control.RA}}, nil, sysctls{}, nil)
	p.guarded = linkPrefixes
	soon := time.Now().Add(time.Hour)
	p.advertise([]advertised{{one, soon}, {link, soon}})
	p.advertise([]advertised{{two, soon}})
	if got := p.dns(); !slices.Equal(got, []netip.Addr{two, one}) {
		t.Errorf("dns %v, want both and not the link's", got)
	}
	p.advertise([]advertised{{one, time.Now()}})
	if got := p.dns(); !slices.Equal(got, []netip.Addr{two}) {
		t.Errorf("dns %v after one was taken back", got)
	}
}
