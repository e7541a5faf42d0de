package offload

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
)

// turnBatches is the maximum number of batches that a socket moves in a turn.
const turnBatches = 4

// sessionsPerSocket bounds sessions, which are small structs: many endpoints may
// send to many remotes over few sockets.
const sessionsPerSocket = 4

// Causes of drops.
const (
	dropFull      = "table full"
	dropEvicted   = "flow evicted, table full" // flows, not datagrams
	dropNoSocket  = "no socket"
	dropNoPlace   = "address that nothing is sent to"
	dropStranger  = "not asked for"
	dropBuffer    = "no buffer space"
	dropSlow      = "receive buffer full"
	dropSize      = "too big"
	dropRoute     = "no route"
	dropHost      = "host refused"
	dropMulticast = "multicast DNS too fast"
	dropOneShot   = "multicast DNS question without relay"
)

// udp is endpoint mode for datagrams. Upstream is the wire, downstream the host.
// The life of a datagram from the host:
//
//	host ── nf_tables ─┬─ no socket yet: tproxy ─▶ udpListener, makes a downstream
//	                   └─ socket transparent ────▶ downstream ─▶ session ─▶ mapping ─▶ wire
//
// and of a reply: wire ─▶ mapping ─▶ session ─▶ downstream ─▶ host. A mapping is the
// socket of one endpoint of the host on the wire, a downstream is the socket of one
// remote towards the host, and a session joins one of each (RFC 4787).
//
// Datagrams of one session and one size travel in trains, which the kernel assembles (UDP_GRO) and
// splits (UDP_SEGMENT). A train takes one system call and one pass of the network stack.
type udp struct {
	loop        *loop.Loop
	conf        Config
	logf        func(string, ...any)
	in          *inbox
	out         *outbox
	d           datagram // the current one
	listeners   []int
	sessions    *sessions
	mappings    map[peer]*mapping // by endpoint of the host
	wirePorts   map[wirePort]*mapping
	downstreams map[peer]*downstream // by remote
	unwatched   []*downstream        // new, not in the loop yet: see watchNew
	services    map[Publish]*service
	icmp        *icmp
	sockets     int
	links       []int // indexes of interfaces to the host
	ports       []int // indexes of interfaces to the wire
	mdns        *mdns
	limit       int
	closed      bool
	count       UDPStats
}

func newUDP(l *loop.Loop, conf Config, logf func(string, ...any)) (*udp, error) {
	return openUDP(l, conf, logf, []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), proxyPort),
		netip.AddrPortFrom(netip.IPv6Loopback(), proxyPort),
	})
}

func openUDP(l *loop.Loop, conf Config, logf func(string, ...any), listen []netip.AddrPort) (*udp, error) {
	u := &udp{
		loop: l, logf: logf, in: newInbox(), out: newOutbox(),
		sessions: newSessions(), mappings: map[peer]*mapping{}, wirePorts: map[wirePort]*mapping{}, downstreams: map[peer]*downstream{}, services: map[Publish]*service{},
		limit: socketLimit(),
	}
	u.count.Drops = map[string]uint64{}
	if err := u.open(conf, listen); err != nil {
		u.close()
		return nil, err
	}
	l.Every(time.Second, u.tick)
	return u, nil
}

func (u *udp) open(conf Config, listen []netip.AddrPort) (err error) {
	if u.icmp, err = newICMP(); err != nil {
		return err
	}
	for _, at := range listen {
		fd, err := listenerSocket(peerOf(at))
		if at.Addr().Is6() && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listener: %w", err)
		}
		u.listeners = append(u.listeners, fd)
		if err := u.loop.Add(fd, unix.EPOLLIN, udpListener{u, fd}); err != nil {
			return err
		}
	}
	return u.configure(conf)
}

// configure applies a configuration: published services, and the wire address of new mappings.
// Existing mappings do not change.
func (u *udp) configure(conf Config) error {
	if err := u.configureServices(conf); err != nil {
		return err
	}
	if err := u.configureMDNS(conf); err != nil {
		return err
	}
	u.conf = conf
	u.findInterfaces(conf)
	u.mdns.tick()
	return nil
}

func (u *udp) stats() UDPStats {
	s := u.count
	s.Flows = uint64(len(u.sessions.all))
	s.Drops = maps.Clone(u.count.Drops)
	return s
}

func (u *udp) drop(cause string, datagrams uint64) { u.count.Drops[cause] += datagrams }

func (u *udp) close() {
	if u.closed {
		return
	}
	u.closed = true
	for _, t := range u.sessions.all {
		u.endSession(t)
	}
	for _, s := range u.services {
		u.endService(s)
	}
	for _, fd := range u.listeners {
		u.loop.Close(fd)
	}
	u.mdns.close()
	u.icmp.close()
}

func (u *udp) tick() {
	if u.closed {
		return
	}
	u.icmp.tokens = wireErrors
	if len(u.services) > 0 || u.mdns != nil {
		u.findInterfaces(u.conf)
		u.mdns.tick()
	}
	u.expire()
}

// expire ends sessions that have been idle for too long. Many may expire at the same time, so they
// are ended over several turns.
func (u *udp) expire() {
	for range 256 {
		t := u.sessions.expired(u.loop.Now())
		if t == nil || u.closed {
			return
		}
		u.endSession(t)
	}
	u.loop.Soon(u.expire)
}

// makeRoom makes room for a session, its mapping and its downstream. A client of a
// published service can evict clients only, and clients never have more than a
// quarter of the table: the wire cannot end sessions of the host.
func (u *udp) makeRoom(inbound bool) bool {
	for u.sockets+2 > u.limit || len(u.sessions.all) >= u.limit*sessionsPerSocket || inbound && 4*u.sessions.inbound >= u.limit {
		t := u.sessions.idlest(inboundUnreplied)
		if t == nil && inbound {
			t = u.sessions.idlest(inboundReplied)
		}
		if !inbound {
			t = u.sessions.idlest(unreplied, dnsReplied, replied, inboundUnreplied, inboundReplied)
		}
		if t == nil {
			return false
		}
		u.drop(dropEvicted, 1)
		u.endSession(t)
	}
	return true
}

// receiver is a socket that receives datagrams: a mapping or a downstream.
type receiver interface {
	descriptor() int
	gone() bool
	readErrors() int
	forward(n int) // forwards n datagrams of the inbox
	turn() func()  // receive as a func value, allocated once
}

// receive forwards pending datagrams of a socket, at most turnBatches batches in a turn.
func (u *udp) receive(r receiver) {
	for range turnBatches {
		if r.gone() {
			return
		}
		n, err := u.in.receive(r.descriptor())
		if err != 0 {
			// The pending ICMP error of the socket. recvmmsg(2) has cleared it by returning it.
			r.readErrors()
			continue
		}
		r.forward(n)
		if n < batchSize {
			return
		}
	}
	u.loop.Soon(r.turn())
}

// udpListener receives the first datagrams of sessions.
type udpListener struct {
	u  *udp
	fd int
}

func (l udpListener) Ready(uint32) {
	u := l.u
	if u.closed {
		return
	}
	for range turnBatches {
		n, _ := u.in.receive(l.fd)
		for i := range n {
			u.in.get(i, &u.d)
			u.fromHost(&u.d)
		}
		if n < batchSize {
			u.watchNew()
			return
		}
	}
	u.watchNew()
	u.loop.Soon(func() { l.Ready(0) })
}

// fromHost forwards a datagram of the host, and makes its session if needed.
func (u *udp) fromHost(d *datagram) {
	t := u.sessionOf(d)
	if t == nil {
		return
	}
	t.widen(d, 1)
	u.sessions.touch(t, true, u.loop.Now())
	t.send(u, d)
	u.flush(t.up)
}

// sessionOf returns the session of a datagram of the host. It makes one if needed, or counts a drop
// and returns nil.
func (u *udp) sessionOf(d *datagram) *session {
	key := sessionKey{host: d.from, remote: d.to}
	if t := u.sessions.all[key]; t != nil {
		return t
	}
	if !d.from.isUnicast() || !d.to.isUnicast() {
		u.drop(dropNoPlace, d.count())
		return nil
	}
	if !u.makeRoom(false) {
		u.drop(dropFull, d.count())
		return nil
	}
	o, err := u.mappingOf(d.from)
	if err != nil {
		u.drop(dropNoSocket, d.count())
		return nil
	}
	t, err := u.newSession(o, key, unreplied)
	if err != nil {
		u.drop(dropNoSocket, d.count())
		return nil
	}
	return t
}
