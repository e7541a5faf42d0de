package offload

import (
	"time"

	"golang.org/x/sys/unix"
)

// sessionKey names a session. ours is of a service that shows the host the card's
// address in place of the remote's.
type sessionKey struct {
	host, remote peer
	ours         bool
}

// session is a flow of datagrams between an endpoint of the host and one remote.
type session struct {
	key  sessionKey
	up   *mapping    // to the remote
	down *downstream // to the host
	// local is the card's address that the remote speaks to; zero where the
	// route chooses one.
	local      peer
	state      state
	inbound    bool // begun by the wire
	closed     bool
	busy       bool // its sockets are wide
	moved      time.Time
	next, prev *session
}

// newSession makes the session of a key over a mapping. After an error the mapping
// is closed unless another session needs it.
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

// endSession may be called again.
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

// downstream is the socket of a remote towards the host, with the remote's address:
// what the host sends to the remote arrives at it, and what it sends comes from the
// remote.
//
// It is one for all endpoints of the host. A socket for each flow, connected to
// its endpoint, would be simpler; but the kernel looks through all sockets
// of one address for the first datagram of a flow, several times: with 2500 flows
// to one name server that was 1 ms for each new one.
type downstream struct {
	u        *udp
	fd       int
	at       peer
	six      bool     // the socket's family
	own      *session // where it shows the card's address: its one flow
	sessions int      // sessions over it
	last     *session
	lost     uint32 // what the socket had lost when last heard of
	closed   bool
	next     func()
}

// downstreamOf finds or makes the socket of a session's remote. One that shows the card's
// address is for its flow alone, and only its port tells it from others.
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

// watchNew puts new downstream sockets into the loop: only now, so that datagrams which
// came to the listener before the socket existed go out first.
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

// receive takes what the host sends to the wire.
func (f *downstream) receive() { f.u.receive(f) }

func (f *downstream) descriptor() int { return f.fd }
func (f *downstream) gone() bool      { return f.closed }
func (f *downstream) turn() func()    { return f.next }

// forward sends n datagrams of the inbox to the wire, those of one endpoint together.
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
			u.flush(now) // what was collected, before anything that ends flows
			now = nil
			if t = f.find(d); t == nil {
				continue
			}
			if t.down == f { // else f has made place for it
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

// flush sends what was collected for a mapping, if any.
func (u *udp) flush(o *mapping) {
	if o != nil {
		u.out.flush(o.fd, o)
	}
}

// find returns the session of a datagram of the host, which may be new, or
// counts why not.
func (f *downstream) find(d *datagram) *session {
	if f.own == nil {
		d.to = f.at
		return f.u.sessionOf(d)
	}
	if d.from != f.own.key.host { // came between bind(2) and connect(2)
		f.u.drop(dropStranger, d.count())
		return nil
	}
	return f.own
}

// widen makes room for a flow that carries much: large datagrams, or many at
// a time.
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

// send puts a datagram into the outbox, for the wire.
func (t *session) send(u *udp, d *datagram) {
	u.count.FromHost += d.count()
	u.count.FromHostBytes += uint64(len(d.data))
	var local *peer
	if t.local != (peer{}) {
		local = &t.local
	}
	u.out.add(d, &t.key.remote, local, !t.key.remote.is4())
}
