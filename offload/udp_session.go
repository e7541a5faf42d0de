package offload

import (
	"time"

	"golang.org/x/sys/unix"
)

// sessionKey identifies a session. ours is set for a service that shows the host the card's address
// in place of the remote's.
type sessionKey struct {
	host, remote peer
	ours         bool
}

// session is a flow of datagrams between an endpoint of the host and one remote.
type session struct {
	key  sessionKey
	up   *mapping    // to the remote
	down *downstream // to the host
	// local is the card's address that the remote sends to; zero when the route selects it.
	local      peer
	state      state
	inbound    bool // opened from the wire
	closed     bool
	busy       bool // widen has enlarged its socket buffers
	moved      time.Time
	next, prev *session
}

// newSession makes the session of a key over a mapping. After an error the mapping is closed,
// unless another session uses it.
func (u *udp) newSession(o *mapping, key sessionKey, l state) (*session, error) {
	f, err := u.downstreamOf(key)
	if err != nil {
		u.release(o)
		return nil, err
	}
	t := &session{key: key, up: o, down: f}
	o.sessions++
	f.sessions++
	if key.ours {
		f.own = t
	}
	u.sessions.add(t, l, u.loop.Now())
	u.count.Opened++
	return t, nil
}

// endSession ends a session, and its sockets if no other session uses them. A second call does
// nothing.
func (u *udp) endSession(t *session) {
	if t.closed {
		return
	}
	t.closed = true
	u.sessions.remove(t)
	t.up.sessions--
	if t.up.last == t {
		t.up.last = nil
	}
	t.down.sessions--
	if t.down.last == t {
		t.down.last = nil
	}
	u.release(t.up)
	u.releaseDownstream(t.down)
}

// downstream is the socket of a remote towards the host. It is bound to the remote's address: it
// receives what the host sends to the remote, and the host sees its datagrams as the remote's.
//
// All endpoints of the host share it. A socket per flow, connected to its endpoint, would be
// simpler. But for the first datagram of a flow the kernel searches all sockets of one address,
// several times: with 2500 flows to one name server that was 1 ms for each new flow.
type downstream struct {
	u        *udp
	fd       int
	at       peer
	six      bool     // the socket's family
	own      *session // its only session, if it shows the card's address; else nil
	sessions int      // sessions over it
	last     *session
	lost     uint32 // last known count of datagrams dropped by the socket
	closed   bool
	next     func()
}

// downstreamOf finds or makes the socket of a session's remote. A socket that shows the card's
// address serves one session, and is distinguished from others by its port only.
func (u *udp) downstreamOf(key sessionKey) (*downstream, error) {
	if f := u.downstreams[key.remote]; f != nil && !key.ours {
		return f, nil
	}
	f := &downstream{u: u, at: key.remote, six: !key.host.is4()}
	var err error
	if key.ours {
		f.fd, err = cardSocket(key.host)
	} else {
		f.fd, err = downstreamSocket(key.remote)
	}
	if err != nil {
		return nil, err
	}
	f.next = f.receive
	u.sockets++
	u.unwatched = append(u.unwatched, f)
	if !key.ours {
		u.downstreams[key.remote] = f
	}
	return f, nil
}

func (u *udp) releaseDownstream(f *downstream) {
	if f.sessions > 0 || f.closed {
		return
	}
	f.closed = true
	if u.downstreams[f.at] == f {
		delete(u.downstreams, f.at)
	}
	u.loop.Close(f.fd)
	u.sockets--
}

// watchNew adds new downstream sockets to the loop. It is called late, so that datagrams received
// by the listener before the socket existed are sent first.
func (u *udp) watchNew() {
	for i, f := range u.unwatched {
		u.unwatched[i] = nil
		if f.closed {
			continue
		}
		if err := u.loop.Add(f.fd, unix.EPOLLIN, f); err != nil {
			u.logf("UDP: %v", err)
		}
	}
	u.unwatched = u.unwatched[:0]
}

func (f *downstream) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		f.readErrors()
	}
	f.receive()
}

// receive reads datagrams of the host for the wire.
func (f *downstream) receive() { f.u.receive(f) }

func (f *downstream) descriptor() int { return f.fd }
func (f *downstream) gone() bool      { return f.closed }
func (f *downstream) turn() func()    { return f.next }

// forward sends n datagrams of the inbox to the wire. Consecutive datagrams of one endpoint are
// sent together.
func (f *downstream) forward(n int) {
	u := f.u
	var now *mapping
	for i := range n {
		d := &u.d
		u.in.get(i, d)
		if d.lost != f.lost {
			u.drop(dropSlow, uint64(d.lost-f.lost))
			f.lost = d.lost
		}
		t := f.last
		if t == nil || t.key.host != d.from {
			u.flush(now) // find may end sessions: send what was collected first
			now = nil
			if t = f.find(d); t == nil {
				continue
			}
			if t.down == f { // else f was evicted to make room for t
				f.last = t
			}
		}
		if t.up != now {
			u.flush(now)
			now = t.up
		}
		t.widen(d, n)
		u.sessions.touch(t, true, u.loop.Now())
		t.send(u, d)
	}
	u.flush(now)
	u.watchNew()
}

// flush sends the datagrams collected for a mapping. o may be nil.
func (u *udp) flush(o *mapping) {
	if o != nil {
		u.out.flush(o.fd, o)
	}
}

// find returns the session of a datagram of the host. It makes one if needed, or counts a drop and
// returns nil.
func (f *downstream) find(d *datagram) *session {
	if f.own == nil {
		d.to = f.at
		return f.u.sessionOf(d)
	}
	if d.from != f.own.key.host { // received between bind(2) and connect(2)
		f.u.drop(dropStranger, d.count())
		return nil
	}
	return f.own
}

// widen enlarges the socket buffers of a busy session: large datagrams, or many at a time.
func (t *session) widen(d *datagram, together int) {
	if t.busy || len(d.data) < busySize && together < batchSize/2 {
		return
	}
	t.busy = true
	widen(t.down.fd)
	if t.up.service == nil {
		widen(t.up.fd)
	}
}

// send adds a datagram for the wire to the outbox.
func (t *session) send(u *udp, d *datagram) {
	u.count.FromHost += d.count()
	u.count.FromHostBytes += uint64(len(d.data))
	var local *peer
	if t.local != (peer{}) {
		local = &t.local
	}
	u.out.add(d, &t.key.remote, local, !t.key.remote.is4())
}
