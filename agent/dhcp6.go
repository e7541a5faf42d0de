package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
)

// far is a moment that does not come.
const far = time.Duration(1<<63 - 1)

// runDHCP6 asks a DHCPv6 server for what routers say it has (RFC 8415): an
// address where the M flag is set, the rest alone where O is.
func (p *port) runDHCP6(ctx context.Context, name string) {
	pause := time.Second
	for ctx.Err() == nil {
		changed, carrier := p.routerComes(), p.carrierComes()
		managed, other := p.flags()
		if !managed && !other {
			p.setLease6(nil, nil)
			p.clock.wait(ctx, far, changed)
			pause = time.Second
			continue
		}
		l, err := p.ask6(ctx, name, managed, nil, dhcpv6.MessageTypeNone)
		if err == nil {
			pause = time.Second
			err = p.hold6(ctx, name, l, changed)
		}
		if err != nil {
			p.setLease6(nil, err)
			p.clock.wait(ctx, p.clock.now()+pause, changed, carrier)
			pause = nextPause(pause, false)
		}
	}
}

func (p *port) flags() (managed, other bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.routers.managed, p.routers.other
}

func (p *port) setLease6(l *lease6, err error) {
	p.mu.Lock()
	same := p.lease6 == l && l == nil
	p.lease6, p.lease6Err = l, err
	p.mu.Unlock()
	if !same {
		p.changed()
	}
}

// hold6 uses a lease as long as it lasts. Without an address it ends when it is
// to be asked for again, or when routers ask for something else.
func (p *port) hold6(ctx context.Context, name string, l *lease6, changed <-chan struct{}) error {
	if !l.address.IsValid() {
		p.setLease6(l, nil)
		p.clock.wait(ctx, l.end(), changed)
		return nil
	}
	p.log.Sayf("port %s: %s by DHCPv6, %s", name, l.address, lasts(l.valid))
	for next := l; next != nil; next = p.renew6(ctx, name, l) {
		if next.address != l.address {
			p.drop6(name, l)
		}
		l = next
		if err := p.install6(name, l); err != nil {
			return err
		}
		p.setLease6(l, nil)
	}
	p.setLease6(nil, nil)
	if ctx.Err() != nil {
		if _, err := p.ask6(context.Background(), name, true, l, dhcpv6.MessageTypeRelease); err != nil {
			p.log.Printf("port %s: release of %s: %v", name, l.address, err)
		}
	} else {
		p.log.Sayf("port %s: lease of %s has ended", name, l.address)
	}
	p.drop6(name, l)
	return nil
}

// renew6 is renew for DHCPv6 (RFC 8415, sections 18.2.4 and 18.2.5).
func (p *port) renew6(ctx context.Context, name string, l *lease6) *lease6 {
	at := l.start + l.t1
	for {
		carrier := p.carrierComes()
		stepped := p.clock.wait(ctx, at, carrier)
		now := p.clock.now()
		if ctx.Err() != nil || now >= l.end() {
			return nil
		}
		kind := dhcpv6.MessageTypeRenew
		if now < at || stepped || now >= l.start+l.t2 {
			kind = dhcpv6.MessageTypeRebind
		}
		next, err := p.ask6(ctx, name, true, l, kind)
		if err == nil {
			return next
		}
		p.log.Printf("port %s: renewal of %s: %v", name, l.address, err)
		at = l.retryAt(p.clock.now())
	}
}

// ask6 is one exchange: SOLICIT and REQUEST, or INFORMATION-REQUEST, without a
// lease; else a message of a kind about it.
func (p *port) ask6(
	ctx context.Context, name string, managed bool, l *lease6, kind dhcpv6.MessageType,
) (*lease6, error) {
	c, err := p.client6(name)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	duid := dhcpv6.WithClientID(&dhcpv6.DUIDLL{
		HWType: iana.HWTypeEthernet, LinkLayerAddr: c.InterfaceAddr(),
	})
	start := p.clock.now()
	var m *dhcpv6.Message
	switch {
	case kind == dhcpv6.MessageTypeRelease:
		return nil, p.release6(c, l, duid)
	case l != nil:
		m, err = exchange6(ctx, c, about6(kind, l, duid))
	case managed:
		if m, err = c.Solicit(ctx, duid); err == nil {
			m, err = c.Request(ctx, m)
		}
	default:
		m, err = exchange6(ctx, c, information6(duid))
	}
	if errors.Is(err, nclient6.ErrNoResponse) || errors.Is(err, context.DeadlineExceeded) {
		return nil, errors.New("no DHCPv6 answer")
	}
	if err != nil {
		return nil, fmt.Errorf("DHCPv6: %w", err)
	}
	return newLease6(m, start, managed, name, p.guarded)
}

// client6 returns a client that uses the port's link-local address.
func (p *port) client6(name string) (*nclient6.Client, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	ip, err := dhcpv6.GetLinkLocalAddr(name)
	if err != nil {
		return nil, err
	}
	// The package net remembers the indexes of names for a minute; a port of the
	// same name may have another one by then.
	at := &net.UDPAddr{IP: ip, Port: dhcpv6.DefaultClientPort, Zone: strconv.Itoa(dev.Index)}
	conn, err := net.ListenUDP("udp6", at)
	if err != nil {
		return nil, err
	}
	return nclient6.NewWithConn(conn, dev.HardwareAddr,
		nclient6.WithTimeout(p.dhcpTry), nclient6.WithRetry(dhcpTries))
}

// builder makes a message.
type builder func() (*dhcpv6.Message, error)

func exchange6(ctx context.Context, c *nclient6.Client, build builder) (*dhcpv6.Message, error) {
	m, err := build()
	if err != nil {
		return nil, err
	}
	return c.SendAndRead(ctx, c.RemoteAddr(), m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
}

func (p *port) release6(c *nclient6.Client, l *lease6, duid dhcpv6.Modifier) error {
	// The server answers, but an end of the card does not wait for that long.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := exchange6(ctx, c, about6(dhcpv6.MessageTypeRelease, l, duid))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

var wanted6 = dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer,
	dhcpv6.OptionDomainSearchList, dhcpv6.OptionInformationRefreshTime)

func information6(duid dhcpv6.Modifier) builder {
	return func() (*dhcpv6.Message, error) {
		m, err := dhcpv6.NewMessage(duid)
		if err != nil {
			return nil, err
		}
		m.MessageType = dhcpv6.MessageTypeInformationRequest
		m.AddOption(dhcpv6.OptElapsedTime(0))
		m.AddOption(wanted6)
		return m, nil
	}
}

// about6 builds a RENEW, REBIND or RELEASE. REBIND names no server.
func about6(kind dhcpv6.MessageType, l *lease6, duid dhcpv6.Modifier) builder {
	return func() (*dhcpv6.Message, error) {
		m, err := dhcpv6.NewMessage(duid)
		if err != nil {
			return nil, err
		}
		m.MessageType = kind
		if kind != dhcpv6.MessageTypeRebind {
			m.AddOption(dhcpv6.OptServerID(l.reply.Options.ServerID()))
		}
		m.AddOption(dhcpv6.OptElapsedTime(0))
		m.AddOption(wanted6)
		ia := &dhcpv6.OptIANA{IaId: l.reply.Options.OneIANA().IaId}
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.IP(l.address.AsSlice())})
		m.AddOption(ia)
		return m, nil
	}
}

// install6 gives the device the address with its lifetimes, which the kernel
// counts, and checks for duplicates. It has no prefix: routers advertise what
// is on the wire (RFC 5942).
func (p *port) install6(name string, l *lease6) error {
	dev, err := p.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: l.address.AsSlice(), Mask: net.CIDRMask(128, 128)},
		ValidLft: int(l.valid / time.Second), PreferedLft: int(l.preferred / time.Second),
	}
	if err := p.nl.AddrReplace(dev, a); err != nil {
		return fmt.Errorf("address %s on %s: %w", l.address, name, err)
	}
	return nil
}

func (p *port) drop6(name string, l *lease6) {
	dev, err := p.nl.LinkByName(name)
	if err != nil {
		return
	}
	one, err := l.address.Prefix(128)
	if err == nil {
		_ = removeAddress(p.nl, dev, one)
	}
}
