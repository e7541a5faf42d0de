package offload

import "time"

// talkKey names a flow of datagrams. ours is of a service that shows the host
// the card's address in place of the remote's.
type talkKey struct {
	host, remote peer
	ours         bool
}

// talk is a flow of datagrams between an endpoint of the host and one remote.
// It owns a socket towards the host, which is the remote as the host sees it.
type talk struct {
	u    *udp
	key  talkKey
	fd   int
	wire *outlet
	// local is the card's address that the remote speaks to; zero where the
	// route chooses one.
	local      peer
	life       life
	foreign    bool // begun by the wire
	closed     bool
	lost       uint32 // what the socket had lost when last heard of
	moved      time.Time
	turn       func()
	next, prev *talk
}

// talkOver makes the flow of a key over an outlet. After an error the outlet
// is closed where nothing else needs it.
func (u *udp) talkOver(o *outlet, key talkKey, l life) (t *talk, err error) {
	t = &talk{u: u, key: key, wire: o}
	if key.ours {
		t.fd, err = cardSocket(key.host)
	} else {
		t.fd, err = hostSocket(key.remote, key.host)
	}
	if err != nil {
		u.release(o)
		return nil, err
	}
	t.turn = t.receive
	o.talks++
	u.sockets++
	u.talks.add(t, l, u.loop.now)
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
	u.loop.drop(t.fd)
	u.sockets--
	t.wire.talks--
	if t.wire.last == t {
		t.wire.last = nil
	}
	u.release(t.wire)
}

func (t *talk) ready(uint32) { t.receive() }

// receive takes what the host sends to the wire.
func (t *talk) receive() {
	u := t.u
	for range turnBatches {
		if t.closed {
			return
		}
		n, err := u.in.receive(t.fd)
		if err != 0 {
			t.unheard()
			return
		}
		for i := range n {
			u.in.get(i, &u.d)
			t.take(&u.d)
		}
		u.out.flush(t.wire.fd, t.wire)
		if n > 0 {
			u.talks.touch(t, true, u.loop.now)
		}
		if n < batchSize {
			return
		}
	}
	u.loop.soon(t.turn)
}

func (t *talk) take(d *datagram) {
	u := t.u
	if d.lost != t.lost {
		u.drop(dropSlow, uint64(d.lost-t.lost))
		t.lost = d.lost
	}
	if d.from == t.key.host {
		t.send(d)
		return
	}
	// Between bind(2) and connect(2) the socket could get what another
	// endpoint of the host sends to the same remote: that is another flow.
	if t.key.ours {
		u.drop(dropStranger, d.count())
		return
	}
	u.out.flush(t.wire.fd, t.wire)
	d.to = t.key.remote
	u.fromHost(d)
	u.watchYoung()
}

// send puts a datagram into the outbox, for the wire.
func (t *talk) send(d *datagram) {
	t.u.count.FromHost += d.count()
	t.u.count.FromHostBytes += uint64(len(d.data))
	var local *peer
	if t.local != (peer{}) {
		local = &t.local
	}
	t.u.out.add(d, &t.key.remote, local, !t.key.remote.is4())
}
