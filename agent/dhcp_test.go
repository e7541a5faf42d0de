package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// dhcpServer is a DHCP server in a namespace, as good or bad as a test wants.
type dhcpServer struct {
	mu      sync.Mutex
	address string
	silent  bool
	nak     bool
	id      net.IP // of the server
	// answers, if not nil, says whether a message is answered.
	answers  func() bool
	host     string
	client   []byte // identifier
	declined []string
	lease    time.Duration
	requests int
	renewals int
	released []string
}

func (d *dhcpServer) change(f func(*dhcpServer)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func startDHCP(s *space, dev string) *dhcpServer {
	s.t.Helper()
	d := &dhcpServer{address: "192.0.2.77", lease: time.Hour, id: net.IPv4(192, 0, 2, 1)}
	var server *server4.Server
	s.in(func() (err error) {
		server, err = server4.NewServer(dev, nil, d.serve)
		return
	})
	go func() { _ = server.Serve() }()
	s.t.Cleanup(func() { _ = server.Close() })
	return d
}

func (d *dhcpServer) serve(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host, d.client = m.HostName(), m.GetOneOption(dhcpv4.OptionClientIdentifier)
	kind := dhcpv4.MessageTypeOffer
	switch m.MessageType() {
	case dhcpv4.MessageTypeRelease:
		d.released = append(d.released, m.ClientIPAddr.String())
		return
	case dhcpv4.MessageTypeDecline:
		d.declined = append(d.declined, m.RequestedIPAddress().String())
		return
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		d.requests++
		if !m.ClientIPAddr.IsUnspecified() {
			d.renewals++
		}
		if d.nak {
			kind = dhcpv4.MessageTypeNak
		}
	}
	if d.silent || d.answers != nil && !d.answers() {
		return
	}
	answer, err := dhcpv4.NewReplyFromRequest(m,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(d.address)),
		dhcpv4.WithServerIP(d.id),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.id)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53)),
		dhcpv4.WithDomainSearchList("example.org"),
		dhcpv4.WithLeaseTime(uint32(d.lease.Seconds())),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78})), // 1400
	)
	if err != nil {
		return
	}
	if u, ok := peer.(*net.UDPAddr); ok && (u.IP == nil || u.IP.IsUnspecified()) {
		peer = &net.UDPAddr{IP: net.IPv4bcast, Port: u.Port}
	}
	_, _ = conn.WriteTo(answer.ToBytes(), peer)
}

const wanMAC = "02:00:00:00:01:01"

// wanPort makes a port on a cable to a wire with a DHCP server.
func wanPort(t *testing.T) (*port, *space, *dhcpServer) {
	wire := newSpace(t)
	cable(t, "cable0", wanMAC, wire, "srv", "")
	wire.address("srv", "192.0.2.1/24")
	server := startDHCP(wire, "srv")
	log := NewLog(t.Output())
	conf := control.Port{Name: "wan", MAC: wanMAC, Addresses: []string{control.DHCP}}
	p := newPort(conf, handle(t), sysctls{"/proc/sys", log}, log)
	p.hostname = func() string { return "edge" }
	return p, wire, server
}

func (p *port) current(t *testing.T) (addrs []netip.Prefix, gws []netip.Addr, mtu int) {
	t.Helper()
	dev, err := p.nl.LinkByName(p.wanted().Name)
	if err != nil {
		t.Fatal(err)
	}
	return addresses(p.nl, dev), gateways(p.nl, dev), dev.Attrs().MTU
}

func hasAddress(t *testing.T, p *port, want string) func() error {
	return func() error {
		if addrs, _, _ := p.current(t); !slices.Contains(addrs, netip.MustParsePrefix(want)) {
			return fmt.Errorf("addresses %v, want %s; %v", addrs, want, p.health())
		}
		return nil
	}
}

func TestDHCPLease(t *testing.T) {
	p, _, server := wanPort(t)
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "lease", hasAddress(t, p, "192.0.2.77/24"))
	eventually(t, time.Second, "health", func() error {
		if h := p.health(); h.state != healthy {
			return errors.New(h.detail)
		}
		return nil
	})
	_, gws, mtu := p.current(t)
	if !slices.Equal(gws, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) || mtu != 1400 {
		t.Errorf("gateways %v, MTU %d, want 192.0.2.1 and 1400", gws, mtu)
	}
	if !slices.Equal(p.dns(), []netip.Addr{netip.MustParseAddr("192.0.2.53")}) || !slices.Equal(p.search(), []string{"example.org"}) {
		t.Errorf("dns %v, search %v", p.dns(), p.search())
	}

	// A configuration that keeps DHCP keeps the lease, and does not ask again.
	conf := p.wanted()
	conf.Addresses = []string{control.DHCP, "198.51.100.7/24"}
	if err := p.configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	hasBoth := []string{"192.0.2.77/24", "198.51.100.7/24"}
	for _, a := range hasBoth {
		if err := hasAddress(t, p, a)(); err != nil {
			t.Error(err)
		}
	}
	server.change(func(d *dhcpServer) {
		if d.requests != 1 {
			t.Errorf("%d DHCP requests, want 1", d.requests)
		}
	})

	p.remove()
	if addrs, gws, _ := p.current(t); len(addrs) != 0 || len(gws) != 0 {
		t.Errorf("left behind: %v via %v", addrs, gws)
	}
	eventually(t, 2*time.Second, "release", func() (err error) {
		server.change(func(d *dhcpServer) {
			if !slices.Equal(d.released, []string{"192.0.2.77"}) {
				err = fmt.Errorf("released %v", d.released)
			}
		})
		return
	})
}

// TestDHCPAsksWhenTheDeviceTakesPackets: before there is a carrier the kernel
// drops what is sent, and counts it.
func TestDHCPAsksWhenTheDeviceTakesPackets(t *testing.T) {
	p, wire, _ := wanPort(t)
	srv, err := wire.nl.LinkByName("srv")
	if err == nil {
		err = wire.nl.LinkSetDown(srv)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	time.Sleep(100 * time.Millisecond)
	if err := wire.nl.LinkSetUp(srv); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "carrier", func() error {
		dev, err := p.nl.LinkByName("wan")
		if err == nil && dev.Attrs().OperState != netlink.OperUp {
			err = fmt.Errorf("state %s", dev.Attrs().OperState)
		}
		return err
	})
	p.linkChanged("wan", true) // as the agent's watcher does
	eventually(t, 5*time.Second, "lease", hasAddress(t, p, "192.0.2.77/24"))
	dev, err := p.nl.LinkByName("wan")
	if err != nil {
		t.Fatal(err)
	}
	if n := dev.Attrs().Statistics.TxDropped; n != 0 {
		t.Errorf("%d packets were sent while nothing could be", n)
	}
}

// TestDHCPLateServer: no server answers at first; the port says so and gets its
// address when the server comes.
func TestDHCPLateServer(t *testing.T) {
	p, _, server := wanPort(t)
	server.change(func(d *dhcpServer) { d.silent = true })
	p.metric = 50
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	time.Sleep(100 * time.Millisecond)
	if h := p.health(); h.state != starting || h.detail != "no DHCP offer" {
		t.Errorf("early health %v", h)
	}
	p.mu.Lock()
	p.since = time.Now().Add(-grace)
	p.mu.Unlock()
	if h := p.health(); h.state != degraded || h.detail != "no DHCP offer after 10s" {
		t.Errorf("late health %v", h)
	}
	server.change(func(d *dhcpServer) { d.silent = false })
	eventually(t, 8*time.Second, "lease", hasAddress(t, p, "192.0.2.77/24"))
}

// renewable returns a port with a lease, and the lease.
func renewable(t *testing.T) (*port, *lease, *dhcpServer) {
	p, _, server := wanPort(t)
	dev, err := nameDevice(p.nl, wanMAC, "wan")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.nl.LinkSetUp(dev); err != nil {
		t.Fatal(err)
	}
	var l *lease
	eventually(t, 8*time.Second, "lease", func() error {
		got, claim, err := p.acquire(t.Context(), "wan")
		if err == nil {
			l = got
			claim.end()
		}
		return err
	})
	if _, err := p.install("wan", nil, l); err != nil {
		t.Fatal(err)
	}
	return p, l, server
}

// TestConfiguredMTU: one that was set while the lease is held outdoes the
// server's at the next renewal.
func TestConfiguredMTU(t *testing.T) {
	p, l, _ := renewable(t)
	mtu := func() int {
		dev, err := p.nl.LinkByName("wan")
		if err != nil {
			t.Fatal(err)
		}
		return dev.Attrs().MTU
	}
	l.mtu = 1400
	if _, err := p.install("wan", l, l); err != nil || mtu() != 1400 {
		t.Fatalf("MTU %d, %v; want the server's 1400", mtu(), err)
	}
	conf := p.wanted()
	conf.MTU, conf.Addresses = 1300, nil
	if err := p.configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if _, err := p.install("wan", l, l); err != nil || mtu() != 1300 {
		t.Errorf("MTU %d, %v; want the configured 1300", mtu(), err)
	}
}

// fakeClock goes on by being waited for.
type fakeClock struct {
	mu    sync.Mutex
	t     time.Duration
	jump  time.Duration // what the next wait lasts longer: a sleep of the card
	steps bool          // the next wait ends at once, because the wall clock was set
}

func (c *fakeClock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) wait(_ context.Context, at time.Duration, _ ...<-chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps {
		c.steps = false
		return true
	}
	c.t = max(c.t, at) + c.jump
	c.jump = 0
	return false
}

// TestDHCPLeaseLife is RFC 2131, section 4.4.5, as a table: what a lease does
// whose server answers from some moment on, or never.
func TestDHCPLeaseLife(t *testing.T) {
	const never = time.Hour * 1000
	for name, tt := range map[string]struct {
		lease   time.Duration
		answers time.Duration // since the lease's start
		set     func(*port, *fakeClock, *dhcpServer)
		renewed time.Duration // when the card has asked with success; 0: not
		ended   time.Duration // when the lease was given up
	}{
		"renewed at T1":                   {lease: time.Hour, renewed: 30 * time.Minute},
		"silent at T1, renewed before T2": {lease: time.Hour, answers: 35 * time.Minute, renewed: 41*time.Minute + 15*time.Second},
		"120 s, silent at T1, rebound at T2": {
			lease: 120 * time.Second, answers: 105 * time.Second, renewed: 105 * time.Second,
		},
		"120 s, another server at T2": {
			lease: 120 * time.Second, answers: 105 * time.Second, renewed: 105 * time.Second,
			set: func(_ *port, _ *fakeClock, d *dhcpServer) { d.id = net.IPv4(192, 0, 2, 2) },
		},
		"another server before T2": {
			lease: 120 * time.Second, renewed: 105 * time.Second,
			set: func(p *port, _ *fakeClock, d *dhcpServer) {
				p.dhcpTry, d.id = 20*time.Millisecond, net.IPv4(192, 0, 2, 2)
			},
		},
		"20 s, always silent":   {lease: 20 * time.Second, answers: never, ended: 20 * time.Second},
		"1 hour, always silent": {lease: time.Hour, answers: never, ended: time.Hour},
		"refused": {
			lease: time.Hour, ended: 30 * time.Minute,
			set: func(_ *port, _ *fakeClock, d *dhcpServer) { d.nak = true },
		},
		"asleep beyond T2": {
			lease: time.Hour, renewed: 55 * time.Minute,
			set: func(_ *port, c *fakeClock, _ *dhcpServer) { c.jump = 25 * time.Minute },
		},
		"asleep beyond the end": {
			lease: time.Hour, ended: 90 * time.Minute,
			set: func(_ *port, c *fakeClock, _ *dhcpServer) { c.jump = time.Hour },
		},
		"asleep, and only the wall clock knows": {
			lease: time.Hour, renewed: 1,
			set: func(_ *port, c *fakeClock, _ *dhcpServer) { c.t++; c.steps = true },
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := &fakeClock{t: time.Hour}
			p, l, server := renewable(t)
			p.clock, p.dhcpTry = clock, 2*time.Millisecond
			if tt.answers == 0 {
				p.dhcpTry = 200 * time.Millisecond // a lost answer would be asked for later
			}
			l.start = clock.now()
			l.time, l.t1, l.t2 = tt.lease, tt.lease/2, tt.lease/8*7
			server.change(func(d *dhcpServer) {
				d.answers = func() bool { return clock.now()-time.Hour >= tt.answers }
				if tt.set != nil {
					tt.set(p, clock, d)
				}
			})
			next := p.renew(t.Context(), "wan", l, nil)
			now := clock.now() - time.Hour
			switch {
			case (next != nil) != (tt.renewed != 0):
				t.Errorf("renewed %v at %v, want %v", next != nil, now, tt.renewed)
			case next != nil && (now != tt.renewed || next.start != clock.now()):
				t.Errorf("renewed at %v from %v, want both %v", now, next.start-time.Hour, tt.renewed)
			case next == nil && now != tt.ended:
				t.Errorf("given up at %v, want %v", now, tt.ended)
			}
		})
	}
}

// TestDHCPCancelled: the end of its context ends a lease.
func TestDHCPCancelled(t *testing.T) {
	p, l, _ := renewable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if next := p.renew(ctx, "wan", l, nil); next != nil {
		t.Error("a lease goes on after the end of its context")
	}
}

// TestNextPause: seconds while a router shows that the network is there.
func TestNextPause(t *testing.T) {
	for _, tt := range []struct {
		last    time.Duration
		network bool
		want    time.Duration
	}{
		{time.Second, false, 2 * time.Second}, {20 * time.Second, false, 30 * time.Second},
		{time.Second, true, 2 * time.Second}, {20 * time.Second, true, 3 * time.Second},
	} {
		if got := nextPause(tt.last, tt.network); got != tt.want {
			t.Errorf("after %v, network %v: %v, want %v", tt.last, tt.network, got, tt.want)
		}
	}
}

// TestDHCPSaysWhoItIs: host name and client identifier.
func TestDHCPSaysWhoItIs(t *testing.T) {
	_, _, server := renewable(t)
	server.change(func(d *dhcpServer) {
		if d.host != "edge" || fmt.Sprintf("%x", d.client) != "01020000000101" {
			t.Errorf("host %q, client %x", d.host, d.client)
		}
	})
}

// TestDHCPConflict: the offered address is another node's, as its answer to our
// probe shows. The lease is declined, its address goes, and the next one is taken.
func TestDHCPConflict(t *testing.T) {
	p, wire, server := wanPort(t)
	wire.address("srv", "192.0.2.77/24")
	p.arpPause = 20 * time.Millisecond
	clock := &fakeClock{}
	p.clock = clock
	server.change(func(d *dhcpServer) {
		d.answers = func() bool { // declined once, it offers another address
			if len(d.declined) > 0 {
				d.address = "192.0.2.78"
			}
			return true
		}
	})
	_ = p.configure(t.Context(), p.wanted())
	defer p.remove()
	// The fake clock would end the second lease at once, over and over.
	eventually(t, 8*time.Second, "DECLINE", func() (err error) {
		server.change(func(d *dhcpServer) {
			if !slices.Contains(d.declined, "192.0.2.77") {
				err = fmt.Errorf("declined %v", d.declined)
			}
		})
		return
	})
	eventually(t, 8*time.Second, "other address", hasAddress(t, p, "192.0.2.78/24"))
	if addrs, _, _ := p.current(t); slices.Contains(addrs, netip.MustParsePrefix("192.0.2.77/24")) {
		t.Errorf("addresses %v, the declined one is still there", addrs)
	}
	if clock.now() < dhcpDeclined {
		t.Errorf("asked again after %v, want %v", clock.now(), dhcpDeclined)
	}
}

// TestARPAnnouncement: what a port sends to claim its address.
func TestARPAnnouncement(t *testing.T) {
	p, wire, _ := wanPort(t)
	p.arpPause = 20 * time.Millisecond
	var conn *packet.Conn
	wire.in(func() error {
		dev, err := net.InterfaceByName("srv")
		if err == nil {
			conn, err = packet.Listen(dev, packet.Datagram, unix.ETH_P_ARP, nil)
		}
		return err
	})
	defer func() { _ = conn.Close() }()
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	probes, announcements := 0, 0
	for buf := make([]byte, 64); announcements < 2; {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%d probes, %d announcements: %v", probes, announcements, err)
		}
		a, ok := parseARP(buf[:n])
		switch ours := netip.MustParseAddr("192.0.2.77"); {
		case !ok || a.target != ours:
		case a.sender == netip.IPv4Unspecified():
			probes++
		case a.sender == ours:
			announcements++
		}
	}
	if probes != 3 {
		t.Errorf("%d probes before the announcements, want 3", probes)
	}
}

// TestDHCPHostileServer: no address of the link, and no route that draws the
// link's traffic to the wire.
func TestDHCPHostileServer(t *testing.T) {
	p, _, server := wanPort(t)
	p.guarded = []netip.Prefix{netip.MustParsePrefix("192.0.2.76/31")}
	server.change(func(d *dhcpServer) { d.address = "192.0.2.77" })
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	eventually(t, 5*time.Second, "refusal", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.leaseErr == nil || p.leaseErr.Error() == "no DHCP offer" {
			return fmt.Errorf("lease error %v", p.leaseErr)
		}
		return nil
	})
	if addrs, _, _ := p.current(t); len(addrs) != 0 {
		t.Errorf("took %v", addrs)
	}
}
