package offload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/raw"
)

// dialLimit is the maximum time for a service of the host to accept. The link loses no packets, so
// a service that is silent for this time does not answer at all.
const dialLimit = 10 * time.Second

// publish listens for a service of the host at every address of the card. The agent's firewall
// accepts the port from the wire and the links.
func (t *tcp) publish(p Publish) error {
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		fd, err := listen(netip.AddrPortFrom(any, p.Port))
		if err != nil {
			if any.Is6() && noIPv6(err) {
				continue
			}
			t.dropAll(t.published[p])
			delete(t.published, p)
			return fmt.Errorf("publish tcp port %d: %w", p.Port, err)
		}
		t.published[p] = append(t.published[p], fd)
		take := func(fd int, client netip.AddrPort) { t.dialService(p, fd, client) }
		if err := t.loop.AddLevel(fd, acceptor{t: t, fd: fd, take: take}); err != nil {
			return err
		}
	}
	return nil
}

// dialing is a client of a published service waiting for the service to accept.
type dialing struct {
	t            *tcp
	client, host int
	limit        *loop.Timer
}

// dialService connects a client to the host. Its handshake with the card is complete: forged SYNs
// get no further than the card's kernel.
func (t *tcp) dialService(p Publish, client int, from netip.AddrPort) {
	if t.fullForWire() {
		_ = raw.Close(client)
		return
	}
	to, keep := p.target(from.Addr())
	source := from
	if !keep || t.ofHost(from.Addr()) { // the host cannot answer its own address
		source = netip.AddrPort{}
	}
	host, err := dialFor(t.loop, source, to)
	if err != nil {
		t.drop("published service not reached")
		_ = raw.Close(client)
		return
	}
	m := &dialing{t: t, client: client, host: host}
	t.dialing[m] = true
	m.limit = t.loop.After(dialLimit, func() { m.fail() })
	if err := t.loop.Add(host, unix.EPOLLOUT, m); err != nil {
		m.fail()
	}
}

// dialFor connects to a service for a client; an invalid source means the card's address. The
// client's port can be taken: by a listener on the card, or by the same client port connected to
// another published port. Then another port is chosen, and the client's address is kept. Falling
// back to the card's address would let a client choose to look like the card, and pass where the
// card is allowed.
func dialFor(l *loop.Loop, source, to netip.AddrPort) (int, error) {
	fd, err := dial(l, source, to, hostSide()...)
	if source.IsValid() && (errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		fd, err = dial(l, netip.AddrPortFrom(source.Addr(), 0), to, hostSide()...)
	}
	return fd, err
}

// ofHost reports whether an address is at the other end of a link. The networks of the links are
// read from the kernel at most once a second, not for every client.
func (t *tcp) ofHost(a netip.Addr) bool {
	if t.linkNets == nil || t.loop.Now().Sub(t.linkNetsAt) >= time.Second {
		t.linkNets, t.linkNetsAt = networks(t.conf.Links), t.loop.Now()
	}
	for _, n := range t.linkNets {
		if n.Contains(a.AsSlice()) {
			return true
		}
	}
	return false
}

// networks returns the networks of the interfaces' addresses.
func networks(names []string) []*net.IPNet {
	found := []*net.IPNet{} // not nil, even if there are none: nil means not read yet
	for _, name := range names {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			continue
		}
		addrs, err := dev.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				found = append(found, n)
			}
		}
	}
	return found
}

// Ready handles the service's answer. It implements loop.Handler.
func (m *dialing) Ready(events uint32) {
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	if err := pendingError(m.host); err != nil {
		m.fail()
		return
	}
	m.leave()
	m.t.count.Opened++
	m.t.count.Published++
	m.t.add(&flow{t: m.t, fd: [2]int{m.host, m.client}, inbound: true})
}

func (m *dialing) fail() {
	m.t.drop("published service not reached")
	m.end()
}

func (m *dialing) end() {
	m.leave()
	m.t.loop.CloseLater(m.host)
	_ = raw.Close(m.client)
}

func (m *dialing) leave() {
	m.t.loop.Cancel(m.limit)
	delete(m.t.dialing, m)
}
