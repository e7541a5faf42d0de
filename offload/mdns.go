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
	mdnsRepeat = time.Second // within it, the same message is not relayed again
	mdnsRecall = 512         // messages to remember
)

var mdnsGroups = []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")}

// mdns relays multicast DNS between the links and the ports (RFC 6762), so
// that the host finds what is on the wire, and the wire the host.
//
// That is more than the RFC means: section 11 wants answers to stay on the
// link where they were asked for, and takes that as a proof of being local.
// Who switches the relay on says that host and wire are one local network. It
// carries names across and does not change them: the host reaches the addresses
// of the wire through the card, the wire reaches addresses of the host only where
// it has a route to them.
//
// A message is sent on as the card's own, with a TTL of 255 (section 11), from
// a link to the ports and from a port to the links. It never goes back: own
// messages are not looped, what an own address has sent is dropped, and a
// message that was seen in the last second is dropped, whoever sends it. The
// latter ends loops through other relays; section 5.2 forbids to ask again
// so early, and who has asked the same gets the same answer.
type mdns struct {
	u      *udp
	fds    map[int]int // by family
	tokens int
	seed   maphash.Seed
	seen   map[uint64]time.Time
	joined map[membership]bool
}

type membership struct{ fd, index int }

// configureMDNS starts or ends the relay.
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

// mdnsSocket hears one group. Others on the card may hear it too.
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
	if group.Is6() { // would be on one link
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

// tick joins the groups on interfaces that are new, and forgets.
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

// join tries again later where an interface has no address yet.
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

// Ready takes its turn as every socket does: somebody on the wire may send
// faster than the card reads.
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
		// A one-shot question (section 6.7): the answer would come to us,
		// not to who asked.
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

// repeated remembers a message.
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
