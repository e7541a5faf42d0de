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
	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
)

// dhcpServer is a DHCP server in a namespace, as good or bad as a test wants.
type dhcpServer struct {
	mu       sync.Mutex
	address  string
	silent   bool
	nak      bool
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
	d := &dhcpServer{address: "192.0.2.77", lease: time.Hour}
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
	kind := dhcpv4.MessageTypeOffer
	switch m.MessageType() {
	case dhcpv4.MessageTypeRelease:
		d.released = append(d.released, m.ClientIPAddr.String())
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
	if d.silent {
		return
	}
	answer, err := dhcpv4.NewReplyFromRequest(m,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(d.address)),
		dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
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
			t.Errorf("%d DHCP requests, 1 is right", d.requests)
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

// TestDHCPLateServer: nobody answers at first; the port says so and gets its
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
	eventually(t, 8*time.Second, "lease", func() (err error) { l, err = p.acquire(t.Context(), "wan"); return })
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
		t.Fatalf("MTU %d, %v; the server's 1400 is right", mtu(), err)
	}
	conf := p.wanted()
	conf.MTU, conf.Addresses = 1300, nil
	if err := p.configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	if _, err := p.install("wan", l, l); err != nil || mtu() != 1300 {
		t.Errorf("MTU %d, %v; the configured 1300 is right", mtu(), err)
	}
}

func TestDHCPRenewal(t *testing.T) {
	p, l, server := renewable(t)
	l.t1 = time.Until(l.start) // due
	next := p.renew(t.Context(), "wan", l)
	if next == nil || next.prefix != l.prefix || !next.start.After(l.start) {
		t.Fatalf("renewed to %+v", next)
	}
	server.change(func(d *dhcpServer) {
		if d.renewals != 1 {
			t.Errorf("%d renewals seen by the server, 1 is right", d.renewals)
		}
	})
	// Rebinding: past T2 everybody is asked.
	l.t2 = l.t1
	if next := p.renew(t.Context(), "wan", l); next == nil {
		t.Error("no rebinding")
	}
}

func TestDHCPRefusedRenewal(t *testing.T) {
	p, l, server := renewable(t)
	server.change(func(d *dhcpServer) { d.nak = true })
	l.t1 = 0
	if next := p.renew(t.Context(), "wan", l); next != nil {
		t.Errorf("a refused lease was renewed to %v", next.prefix)
	}
}

func TestDHCPExpiry(t *testing.T) {
	p, l, _ := renewable(t)
	l.start = time.Now().Add(-2 * time.Hour)
	if next := p.renew(t.Context(), "wan", l); next != nil {
		t.Error("an expired lease goes on")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.start = time.Now()
	if next := p.renew(ctx, "wan", l); next != nil {
		t.Error("a lease goes on after the end of its context")
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
