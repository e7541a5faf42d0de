package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	// The first try is short: a packet sent while the other end of a port
	// is still being plugged in is lost, and a start should not wait for it.
	dhcpFirstTry = 400 * time.Millisecond
	dhcpTries    = 4 // each twice as long as the one before: 6 s in all
	dhcpMaxPause = 30 * time.Second
	// A server may say any number; below this the card would do nothing else.
	dhcpMinLease = time.Minute
)

// runDHCP keeps an IPv4 lease on a port until ctx ends, then gives it back.
func (p *port) runDHCP(ctx context.Context, name string) {
	pause := time.Second
	for ctx.Err() == nil {
		carrier := p.carrierComes()
		p.awaitQueue(ctx, name, carrier)
		l, err := p.acquire(ctx, name)
		if err != nil {
			p.setLease(nil, err)
			select {
			case <-carrier: // a cable was plugged in: the pause has lost its reason
				pause = time.Second
			case <-time.After(pause):
				pause = min(2*pause, dhcpMaxPause)
			case <-ctx.Done():
			}
			continue
		}
		pause = time.Second
		p.hold(ctx, name, l)
	}
}

// awaitQueue waits, for a moment at most, until the device takes packets. The
// kernel gives it a queue some time after it is up, when it has heard of the
// carrier: what is sent before is dropped, and asking again costs dhcpFirstTry.
func (p *port) awaitQueue(ctx context.Context, name string, carrier <-chan struct{}) {
	dev, err := p.nl.LinkByName(name)
	if err != nil || dev.Attrs().OperState == netlink.OperUp || dev.Attrs().OperState == netlink.OperUnknown {
		return // or acquire says what is wrong
	}
	select {
	case <-carrier:
	case <-time.After(dhcpFirstTry):
	case <-ctx.Done():
	}
}

// hold uses a lease as long as it lasts.
func (p *port) hold(ctx context.Context, name string, l *lease) {
	dev, err := p.install(name, nil, l)
	if err != nil {
		p.setLease(nil, err)
		sleep(ctx, time.Second)
		return
	}
	p.log.Sayf("port %s: %s by DHCP from %s, %s", name, l.prefix, l.server, l.lasts())
	for {
		next := p.renew(ctx, name, l)
		if next == nil {
			break
		}
		if _, err := p.install(name, l, next); err != nil {
			p.setLease(nil, err)
			break
		}
		l = next
	}
	p.setLease(nil, nil)
	if ctx.Err() != nil {
		p.release(name, l)
	} else {
		p.log.Sayf("port %s: lease of %s has ended", name, l.prefix)
	}
	for _, r := range l.routes {
		_ = removeRoute(p.nl, dev, r)
	}
	_ = removeAddress(p.nl, dev, l.prefix)
}

// install puts a lease on the device in the place of an older one.
func (p *port) install(name string, old, l *lease) (netlink.Link, error) {
	dev, err := p.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	// An administrator may have set one since the client was started.
	if l.mtu != 0 && p.wanted().MTU == 0 {
		if err := setMTU(p.nl, dev, l.mtu); err != nil {
			p.log.Printf("port %s: the DHCP server's %v", name, err)
		}
	}
	if err := addAddress(p.nl, dev, l.prefix, 0); err != nil {
		return nil, err
	}
	if old != nil && old.prefix != l.prefix {
		_ = removeAddress(p.nl, dev, old.prefix)
	}
	for i, r := range l.routes {
		r.metric = p.metric
		l.routes[i] = r
		if err := addRoute(p.nl, dev, r); err != nil {
			p.log.Printf("port %s: the DHCP server's %v", name, err)
		}
	}
	if old != nil {
		for _, r := range old.routes {
			if !containsRoute(l.routes, r) {
				_ = removeRoute(p.nl, dev, r)
			}
		}
	}
	p.setLease(l, nil)
	return dev, nil
}

func containsRoute(list []route, r route) bool {
	for _, x := range list {
		if x == r {
			return true
		}
	}
	return false
}

func (p *port) setLease(l *lease, err error) {
	p.mu.Lock()
	lost := p.lease != nil && l == nil
	p.lease, p.leaseErr = l, err
	if lost {
		p.since = time.Now()
	}
	p.mu.Unlock()
	p.changed()
}

// acquire asks for a lease, from DISCOVER to ACK. The socket lives no longer
// than that: it hears every packet of the port.
func (p *port) acquire(ctx context.Context, name string) (*lease, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(dhcpFirstTry), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	defer func() { _ = c.Close() }()
	got, err := c.Request(ctx, p.dhcpOptions)
	if errors.Is(err, nclient4.ErrNoResponse) {
		return nil, errors.New("no DHCP offer")
	}
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	return newLease(got, p.guarded)
}

func (p *port) dhcpOptions(m *dhcpv4.DHCPv4) {
	m.UpdateOption(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
		dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionClasslessStaticRoute,
		dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue))
}

// renew waits until a lease is to be renewed and returns the next one, or
// nil when the lease has ended, was refused, or ctx has ended.
// RFC 2131, section 4.4.5: from T1 on its own server is asked, from T2 any.
func (p *port) renew(ctx context.Context, name string, l *lease) *lease {
	at := l.start.Add(l.t1)
	for {
		carrier := p.carrierComes()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(at)):
		case <-carrier:
			// Another network may be plugged in now: ask everybody.
		}
		now := time.Now()
		if !now.Before(l.start.Add(l.time)) {
			return nil
		}
		next, err := p.askAgain(ctx, name, l, now.Before(at) || !now.Before(l.start.Add(l.t2)))
		var nak *nclient4.ErrNak
		switch {
		case err == nil:
			return next
		case errors.As(err, &nak):
			p.log.Sayf("port %s: %v", name, err)
			return nil
		}
		p.log.Printf("port %s: renewal of %s: %v", name, l.prefix, err)
		at = retryAt(now, l)
	}
}

// retryAt is half of what is left until the next turning point, but not
// sooner than a minute, nor later than the lease's end.
func retryAt(now time.Time, l *lease) time.Time {
	end := l.start.Add(l.time)
	turn := l.start.Add(l.t2)
	if !now.Before(turn) {
		turn = end
	}
	at := now.Add(max(turn.Sub(now)/2, time.Minute))
	if at.After(end) {
		return end
	}
	return at
}

func (p *port) askAgain(ctx context.Context, name string, l *lease, everybody bool) (*lease, error) {
	c, err := l.client(name, everybody)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	got, err := c.Renew(ctx, l.raw, p.dhcpOptions)
	if err != nil {
		return nil, err
	}
	return newLease(got, p.guarded)
}

// client speaks from the lease's own address to its server, or, when it is
// late, to everybody.
func (l *lease) client(name string, everybody bool) (*nclient4.Client, error) {
	options := []nclient4.ClientOpt{nclient4.WithTimeout(time.Second), nclient4.WithRetry(3)}
	if !everybody {
		options = append(options,
			nclient4.WithUnicast(&net.UDPAddr{IP: l.prefix.Addr().AsSlice(), Port: nclient4.ClientPort}),
			nclient4.WithServerAddr(&net.UDPAddr{IP: l.server.AsSlice(), Port: nclient4.ServerPort}))
	}
	return nclient4.New(name, options...)
}

// release gives the lease back; the server sends no answer.
func (p *port) release(name string, l *lease) {
	c, err := l.client(name, false)
	if err != nil {
		p.log.Printf("port %s: release of %s: %v", name, l.prefix, err)
		return
	}
	defer func() { _ = c.Close() }()
	if err := c.Release(l.raw); err != nil {
		p.log.Printf("port %s: release of %s: %v", name, l.prefix, err)
	}
}

// within says whether any guarded prefix contains the address.
func within(guarded []netip.Prefix, a netip.Addr) bool {
	for _, g := range guarded {
		if g.Contains(a) {
			return true
		}
	}
	return false
}
