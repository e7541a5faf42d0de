package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// dhcpOptions are in every message. The client identifier is the port's MAC
// address (RFC 2132, section 9.14), which stays over restarts of the card.
func (p *port) dhcpOptions(mac net.HardwareAddr) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{1}, mac...)))
		if name := p.hostname(); plainDomain(name) {
			m.UpdateOption(dhcpv4.OptHostName(name))
		}
		m.UpdateOption(dhcpv4.OptParameterRequestList(
			dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter,
			dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
			dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU,
			dhcpv4.OptionClasslessStaticRoute,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue))
	}
}

// acquire asks for a lease, from DISCOVER to ACK, and begins to claim its
// address while the server still writes its ACK. The socket lives no longer than
// that: it hears every packet of the port.
func (p *port) acquire(ctx context.Context, name string) (*lease, *claim, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(p.dhcpTry), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, nil, fmt.Errorf("DHCP: %w", err)
	}
	defer func() { _ = c.Close() }()
	options := p.dhcpOptions(c.InterfaceAddr())
	offer, err := c.DiscoverOffer(ctx, options)
	if errors.Is(err, nclient4.ErrNoResponse) {
		return nil, nil, errors.New("no DHCP offer")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("DHCP: %w", err)
	}
	offered := v4(offer.YourIPAddr)
	if !unicast(offered) {
		return nil, nil, fmt.Errorf("DHCP: address %s was offered, want a unicast address",
			offer.YourIPAddr)
	}
	claim, err := claimAddress(ctx, name, offered, p.arpPause)
	if err != nil {
		return nil, nil, err
	}
	start := p.clock.now()
	got, err := c.RequestFromOffer(ctx, offer, options)
	var l *lease
	if err == nil {
		l, err = newLease(got.ACK, start, p.guarded)
	} else {
		err = fmt.Errorf("DHCP: %w", err)
	}
	if err == nil && l.prefix.Addr() != offered {
		err = fmt.Errorf("DHCP: %s was offered, %s acknowledged", offered, l.prefix.Addr())
	}
	if err != nil {
		claim.end()
		return nil, nil, err
	}
	return l, claim, nil
}

// extend asks for more of a lease: its own server, from the lease's own
// address, or, rebinding, every server on the wire (RFC 2131, section 4.3.2).
func (p *port) extend(ctx context.Context, name string, l *lease, rebind bool) (*lease, error) {
	c, err := l.client(name, rebind, nclient4.WithTimeout(p.dhcpTry), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	m, err := dhcpv4.NewRenewFromAck(l.ack, p.dhcpOptions(c.InterfaceAddr()),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)))
	if err == nil {
		m.TransactionID, err = dhcpv4.GenerateTransactionID()
	}
	if err != nil {
		return nil, err
	}
	ours := func(m *dhcpv4.DHCPv4) bool { return rebind || v4(m.ServerIdentifier()) == l.server }
	start := p.clock.now()
	got, err := c.SendAndRead(ctx, c.RemoteAddr(), m, nclient4.IsAll(ours,
		nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)))
	if err != nil {
		return nil, err
	}
	if got.MessageType() == dhcpv4.MessageTypeNak {
		return nil, &nclient4.ErrNak{Offer: l.ack, Nak: got}
	}
	return newLease(got, start, p.guarded)
}

// client returns a client that uses the lease's address and server, or broadcasts.
func (l *lease) client(name string, everybody bool, options ...nclient4.ClientOpt) (*nclient4.Client, error) {
	if !everybody {
		options = append(options,
			nclient4.WithUnicast(&net.UDPAddr{IP: l.prefix.Addr().AsSlice(), Port: nclient4.ClientPort}),
			nclient4.WithServerAddr(&net.UDPAddr{IP: l.server.AsSlice(), Port: nclient4.ServerPort}))
	}
	return nclient4.New(name, options...)
}

// release gives the lease back. The server sends no answer.
func (p *port) release(name string, l *lease) {
	c, err := l.client(name, false)
	if err == nil {
		defer func() { _ = c.Close() }()
		err = c.Release(&nclient4.Lease{ACK: l.ack}, dhcpv4.WithOption(
			dhcpv4.OptClientIdentifier(append([]byte{1}, c.InterfaceAddr()...))))
	}
	if err != nil {
		p.log.Printf("port %s: release of %s: %v", name, l.prefix, err)
	}
}

// decline tells the server that another node has the address (RFC 2131,
// section 4.4.1). It sends no answer.
func (p *port) decline(name string, l *lease) error {
	c, err := nclient4.New(name, nclient4.WithTimeout(time.Millisecond), nclient4.WithRetry(1))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	m, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline),
		dhcpv4.WithHwAddr(c.InterfaceAddr()),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, c.InterfaceAddr()...))),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.prefix.Addr().AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server.AsSlice())))
	if err != nil {
		return err
	}
	_, err = c.SendAndRead(context.Background(), c.RemoteAddr(), m, nil)
	if errors.Is(err, nclient4.ErrNoResponse) {
		err = nil
	}
	return err
}
