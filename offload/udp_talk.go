package offload

import (
	"time"

	"golang.org/x/sys/unix"
)

// talkKey names a flow of datagrams. ours is of a service that shows the host
// the card's address in place of the remote's.
type talkKey struct {
	host, remote peer
	ours         bool
}

// talk is a flow of datagrams between an endpoint of the host and one remote.
type talk struct {
	key  talkKey
	wire *outlet // to the remote
	face *face   // to the host
	// local is the card's address that the remote speaks to; zero where the
	// route chooses one.
	local      peer
	life       life
	foreign    bool // begun by the wire
	closed     bool
	busy       bool // its sockets are wide
	moved      time.Time
	next, prev *talk
}

// talkOver makes the flow of a key over an outlet. After an error the outlet
// is closed where nothing else needs it.
func (u *udp) talkOver(o *outlet, key talkKey, l life) (*talk, error) {
	f, err := u.faceOf(key)
	if err != nil {
		u.release(o)
		return nil, err
	}
	t := &talk{key: key, wire: o, face: f}
	o.talks++
	f.talks++
	if key.ours {
		f.own = t
	}
	u.talks.add(t, l, u.loop.Now())
	u.count.Opened++
	return t, nil
}

// endTalk may be called again.
func (u *udp) endTalk(t *talk) {
	if t.closed {
		return
	}
	t.closed = true
	u.talks.remove(t)
	t.wire.talks--
	if t.wire.last == t {
		t.wire.last = nil
	}
	t.face.talks--
	if t.face.last == t {
		t.face.last = nil
	}
	u.release(t.wire)
	u.releaseFace(t.face)
}

// face is a remote as the host sees it: a socket with the remote's address.
// What it sends comes from there, and what the host sends there arrives.
//
// It is one for all endpoints of the host. A socket for each flow, connected to
// its endpoint, would be simpler; but the kernel looks through all sockets
// of one address for the first datagram of a flow, several times: with 2500 flows
// to one name server that was 1 ms for each new one.
type face struct {
	u      *udp
	fd     int
	at     peer
	six    bool  // the socket's family
	own    *talk // where it shows the card's address: its one flow
	talks  int   // that need it
	last   *talk
	lost   uint32 // what the socket had lost when last heard of
	closed bool
	turn   func()
}

// faceOf finds or makes the face of a flow's remote. One that shows the card's
// address is for its flow alone, and only its port tells it from others.
func (u *udp) faceOf(key talkKey) (*face, error) {
	if f := u.faces[key.remote]; f != nil && !key.ours {
		return f, nil
	}
	f := &face{u: u, at: key.remote, six: !key.host.is4()}
	var err error
	if key.ours {
		f.fd, err = cardSocket(key.host)
	} else {
		f.fd, err = faceSocket(key.remote)
	}
	if err != nil {
		return nil, err
	}
	f.turn = f.receive
	u.sockets++
	u.young = append(u.young, f)
	if !key.ours {
		u.faces[key.remote] = f
	}
	return f, nil
}

func (u *udp) releaseFace(f *face) {
	if f.talks > 0 || f.closed {
		return
	}
	f.closed = true
	if u.faces[f.at] == f {
		delete(u.faces, f.at)
	}
	u.loop.Close(f.fd)
	u.sockets--
}

// watchYoung puts new faces into the loop: only now, so that datagrams which
// came to the listener before the face was there go out first.
func (u *udp) watchYoung() {
	for i, f := range u.young {
		u.young[i] = nil
		if f.closed {
			continue
		}
		if err := u.loop.Add(f.fd, unix.EPOLLIN, f); err != nil {
			u.logf("UDP: %v", err)
		}
	}
	u.young = u.young[:0]
}

func (f *face) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		f.readErrors()
	}
	f.receive()
}

// receive takes what the host sends to the wire.
func (f *face) receive() { f.u.receive(f) }

func (f *face) descriptor() int { return f.fd }
func (f *face) gone() bool      { return f.closed }
func (f *face) again() func()   { return f.turn }

// pass sends n datagrams of the inbox to the wire, those of one endpoint together.
func (f *face) pass(n int) {
	u := f.u
	var now *outlet
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
			if t.face == f { // else f has made place for it
				f.last = t
			}
		}
		if t.wire != now {
			u.flush(now)
			now = t.wire
		}
		t.widen(d, n)
		u.talks.touch(t, true, u.loop.Now())
		t.send(u, d)
	}
	u.flush(now)
	u.watchYoung()
}

// flush sends what was collected for an outlet, if any.
func (u *udp) flush(o *outlet) {
	if o != nil {
		u.out.flush(o.fd, o)
	}
}

// find returns the flow of a datagram of the host, which may be new, or
// counts why not.
func (f *face) find(d *datagram) *talk {
	if f.own == nil {
		d.to = f.at
		return f.u.talkOf(d)
	}
	if d.from != f.own.key.host { // came between bind(2) and connect(2)
		f.u.drop(dropStranger, d.count())
		return nil
	}
	return f.own
}

// widen makes room for a flow that carries much: large datagrams, or many at
// a time.
func (t *talk) widen(d *datagram, together int) {
	if t.busy || len(d.data) < busySize && together < batchSize/2 {
		return
	}
	t.busy = true
	widen(t.face.fd)
	if t.wire.service == nil {
		widen(t.wire.fd)
	}
}

// send puts a datagram into the outbox, for the wire.
func (t *talk) send(u *udp, d *datagram) {
	u.count.FromHost += d.count()
	u.count.FromHostBytes += uint64(len(d.data))
	var local *peer
	if t.local != (peer{}) {
		local = &t.local
	}
	u.out.add(d, &t.key.remote, local, !t.key.remote.is4())
}
