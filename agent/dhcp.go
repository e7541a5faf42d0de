package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	// The first try is short: a packet sent while the other end of a port
	// is still being plugged in is lost, and a start should not wait for it.
	dhcpFirstTry = 400 * time.Millisecond
	dhcpTries    = 4 // each twice as long as the one before: 6 s in all
	// Pauses between series of tries grow up to dhcpMaxPause, or to dhcpPresent
	// when a router advertisement shows that the network is there.
	dhcpMaxPause = 30 * time.Second
	dhcpPresent  = 3 * time.Second
	// dhcpDeclined is the pause after DECLINE (RFC 2131, section 3.1.5).
	dhcpDeclined = 10 * time.Second
	// arpPause is PROBE_MIN of RFC 5227, section 1.1.
	arpPause = time.Second
)

// runDHCP keeps an IPv4 lease on a port until ctx ends, then gives it back.
func (p *port) runDHCP(ctx context.Context, name string) {
	pause := time.Second
	for ctx.Err() == nil {
		carrier, router := p.carrierComes(), p.routerComes()
		p.awaitQueue(ctx, name, carrier)
		l, claim, err := p.acquire(ctx, name)
		if err == nil {
			pause = time.Second
			err = p.hold(ctx, name, l, claim)
		}
		if err == nil {
			continue
		}
		p.setLease(nil, err)
		if errors.Is(err, errContested) {
			pause, router = dhcpDeclined, nil
		}
		p.clock.wait(ctx, p.clock.now()+pause, carrier, router)
		pause = nextPause(pause, p.routerSeen())
		select {
		case <-carrier: // a cable was plugged in: the pause has lost its reason
			pause = time.Second
		default:
		}
	}
}

func nextPause(last time.Duration, network bool) time.Duration {
	if network {
		return min(2*last, dhcpPresent)
	}
	return min(2*last, dhcpMaxPause)
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

// errContested: another node on the wire has the address of the lease.
var errContested = errors.New("address conflict")

// hold uses a lease as long as it lasts. An error is why it could not be used;
// a lease that ends by itself is none.
func (p *port) hold(ctx context.Context, name string, l *lease, claim *claim) error {
	defer claim.end()
	if claim.lost() {
		return p.refuse(name, l, claim)
	}
	dev, err := p.install(name, nil, l)
	if err != nil {
		return err
	}
	p.log.Sayf("port %s: %s by DHCP from %s, %s", name, l.prefix, l.server, lasts(l.time))
	for {
		next := p.renew(ctx, name, l, claim.contested)
		if next == nil {
			break
		}
		if _, err = p.install(name, l, next); err != nil {
			break
		}
		l = next
	}
	p.setLease(nil, nil)
	for _, r := range l.routes {
		_ = removeRoute(p.nl, dev, r)
	}
	if ctx.Err() != nil {
		p.release(name, l) // from the address, which must still be there
	}
	_ = removeAddress(p.nl, dev, l.prefix)
	switch {
	case ctx.Err() != nil || err != nil:
	case claim.lost():
		err = p.refuse(name, l, claim)
	default:
		p.log.Sayf("port %s: lease of %s has ended", name, l.prefix)
	}
	return err
}

func (p *port) refuse(name string, l *lease, claim *claim) error {
	err := fmt.Errorf("DHCP: %w: %s has %s", errContested, claim.by, l.prefix.Addr())
	p.log.Sayf("port %s: %v", name, err)
	if derr := p.decline(name, l); derr != nil {
		p.log.Printf("port %s: DECLINE of %s: %v", name, l.prefix, derr)
	}
	return err
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

// renew waits until a lease is due and returns the next one. It returns nil
// when the lease has ended, was refused or is contested, or when ctx has ended.
// RFC 2131, section 4.4.5: from T1 on its own server is asked, from T2 any.
func (p *port) renew(ctx context.Context, name string, l *lease, contested <-chan struct{}) *lease {
	at := l.start + l.t1
	for {
		carrier := p.carrierComes()
		stepped := p.clock.wait(ctx, at, carrier, contested)
		now := p.clock.now()
		select {
		case <-ctx.Done():
			return nil
		case <-contested:
			return nil
		case <-carrier:
			stepped = true
		default:
		}
		if now >= l.end() {
			return nil
		}
		if now < at && !stepped {
			continue
		}
		// After a plug or a sleep the network may be another: ask any server.
		rebind := stepped || now >= l.start+l.t2
		next, err := p.extendUntil(ctx, name, l, rebind)
		var nak *nclient4.ErrNak
		switch {
		case err == nil:
			return next
		case errors.As(err, &nak):
			p.log.Sayf("port %s: %v", name, err)
			return nil
		}
		p.log.Printf("port %s: renewal of %s: %v", name, l.prefix, err)
		at = l.retryAt(p.clock.now())
	}
}

// extendUntil gives up in time for the lease's next turning point.
func (p *port) extendUntil(ctx context.Context, name string, l *lease, rebind bool) (*lease, error) {
	left := l.turn(p.clock.now()) - p.clock.now()
	ctx, cancel := context.WithTimeout(ctx, max(min(left, 10*time.Second), 10*time.Millisecond))
	defer cancel()
	return p.extend(ctx, name, l, rebind)
}
