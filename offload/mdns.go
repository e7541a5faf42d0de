package offload

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the relay.
const (
	mdnsPort   = 5353
	mdnsMost   = 9000 // bytes of a message, RFC 6762 section 17
	mdnsLeast  = 12   // the header of DNS
	mdnsRate   = 100  // messages a second, on average
	mdnsBurst  = 200
	mdnsRepeat = time.Second // a message repeated within this time is dropped
	mdnsRecall = 512         // messages remembered
)

var mdnsGroups = []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")}

// mdns relays multicast DNS between the links and the ports (RFC 6762), so
// that the host finds what is on the wire, and the wire the host.
//
// This goes beyond the RFC: section 11 keeps answers on the link of the query, as a proof of being
// local. Enabling the relay declares host and wire one local network. Names are relayed unchanged:
// the host reaches the addresses of the wire through the card; the wire reaches addresses of the
// host only if it has a route to them.
//
// A message is relayed from the card's own address, with a TTL of 255 (section 11), from a link to
// the ports and from a port to the links. It never returns: multicast loopback is off, messages
// from the card's own addresses are dropped, and so are messages seen within the last second, from
// any sender. The last rule breaks loops through other relays. It loses no queries: section 5.2
// forbids repeating a query that early, and another querier of the same name gets the same
// multicast answer.
type mdns struct {
	u      *udp
	fds    map[int]int // by family
	tokens int
	seed   maphash.Seed
	seen   map[uint64]time.Time
	joined map[membership]bool
}

type membership struct{ fd, index int }

// configureMDNS starts or stops the relay.
func (u *udp) configureMDNS(conf Config) (err error) {
	if !conf.MDNS {
		u.mdns.close()
		u.mdns = nil
		return nil
	}
	if u.mdns == nil {
		if u.mdns, err = newMDNS(u); err != nil {
			return fmt.Errorf("multicast DNS: %w", err)
		}
	}
	return nil
}

func newMDNS(u *udp) (*mdns, error) {
	m := &mdns{u: u, fds: map[int]int{}, tokens: mdnsBurst, seed: maphash.MakeSeed(), seen: map[uint64]time.Time{}, joined: map[membership]bool{}}
	for _, group := range mdnsGroups {
		fd, err := mdnsSocket(group)
		if group.Is6() && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			m.close()
			return nil, err
		}
		m.fds[familyOf(group)] = fd
		if err := u.loop.Add(fd, unix.EPOLLIN, mdnsHandler{m, fd}); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

// mdnsSocket makes a socket that receives one group. Other programs on the card may share the port.
func mdnsSocket(group netip.Addr) (int, error) {
	options := []option{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.SOL_IP, unix.IP_PKTINFO, 1},
		{unix.SOL_IP, unix.IP_MULTICAST_ALL, 0},
		{unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0},
		{unix.SOL_IP, unix.IP_MULTICAST_TTL, 255},
	}
	if group.Is6() {
		options = []option{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
			{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1},
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL, 0},
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
			{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 255},
		}
	}
	fd, err := newSocket(familyOf(group), unix.SOCK_DGRAM, options...)
	at := peerOf(netip.AddrPortFrom(group, mdnsPort))
	if group.Is6() { // bound to the group it would receive from one link only
		at = anyAddress(unix.AF_INET6, mdnsPort)
	}
	return boundTo(fd, err, &at)
}

// close may be called again, and on nil.
func (m *mdns) close() {
	if m == nil {
		return
	}
	for _, fd := range m.fds {
		m.u.loop.Close(fd)
	}
	m.fds = nil
}

// tick refills the tokens, expires remembered messages and joins the groups on new interfaces.
func (m *mdns) tick() {
	if m == nil {
		return
	}
	m.tokens = min(mdnsBurst, m.tokens+mdnsRate)
	for key, at := range m.seen {
		if m.u.loop.Now().Sub(at) > mdnsRepeat {
			delete(m.seen, key)
		}
	}
	for family, fd := range m.fds {
		for _, index := range append(m.u.links, m.u.ports...) {
			m.join(family, membership{fd, index})
		}
	}
}

// join joins a group on an interface. One without an address yet is retried at the next tick.
func (m *mdns) join(family int, on membership) {
	if m.joined[on] {
		return
	}
	var err error
	if family == unix.AF_INET {
		err = unix.SetsockoptIPMreqn(on.fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: mdnsGroups[0].As4(), Ifindex: int32(on.index)})
	} else {
		err = unix.SetsockoptIPv6Mreq(on.fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: mdnsGroups[1].As16(), Interface: uint32(on.index)})
	}
	m.joined[on] = err == nil || errors.Is(err, unix.EADDRINUSE)
}

type mdnsHandler struct {
	*mdns
	fd int
}

// Ready implements loop.Handler. Its work per turn is bounded, because the wire may send faster
// than the card reads.
func (h mdnsHandler) Ready(uint32) {
	u := h.u
	for range turnBatches {
		if h.fds == nil {
			return
		}
		n, _ := u.in.receive(h.fd)
		for i := range n {
			u.in.get(i, &u.d)
			h.relay(h.fd, &u.d)
		}
		if n < batchSize {
			return
		}
	}
	u.loop.Soon(func() { h.Ready(0) })
}

// relay sends a message to the other side.
func (m *mdns) relay(fd int, d *datagram) {
	to := m.u.across(d.index)
	switch {
	case to == nil, !slices.Contains(mdnsGroups, d.to.addr()), len(d.data) < mdnsLeast, len(d.data) > mdnsMost:
		return
	case d.from.port() != mdnsPort:
		// A one-shot query (section 6.7): the answer would come to the card, not to the querier.
		m.u.drop(dropOneShot, 1)
		return
	case m.tokens <= 0:
		m.u.drop(dropMulticast, 1)
		return
	}
	m.tokens--
	if m.repeated(d.data) || isOwn(d.from) {
		return
	}
	group := unix.Sockaddr(&unix.SockaddrInet4{Port: mdnsPort, Addr: mdnsGroups[0].As4()})
	if !d.from.is4() {
		group = &unix.SockaddrInet6{Port: mdnsPort, Addr: mdnsGroups[1].As16()}
	}
	for _, index := range to {
		var room [controlSize / 8]uint64
		control := controls{buf: bytesOf(&room)}
		control.out(index, d.from.is4())
		if _, err := unix.SendmsgN(fd, d.data, control.buf[:control.n], group, unix.MSG_DONTWAIT); err != nil {
			m.u.drop(dropRoute, 1)
		}
	}
}

// repeated reports whether a message was seen within mdnsRepeat, and remembers it.
func (m *mdns) repeated(data []byte) bool {
	key := maphash.Bytes(m.seed, data)
	now := m.u.loop.Now()
	if at, ok := m.seen[key]; ok && now.Sub(at) < mdnsRepeat {
		return true
	}
	if len(m.seen) < mdnsRecall {
		m.seen[key] = now
	}
	return false
}

// across lists the interfaces of the other side: ports of a link, links of a port.
func (u *udp) across(index int) []int {
	switch {
	case u.onLink(index):
		return u.ports
	case u.onPort(index):
		return u.links
	}
	return nil
}
