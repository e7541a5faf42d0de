package offload

import "golang.org/x/sys/unix"

// outlet is a socket towards the wire: one for each endpoint of the host,
// whatever it talks to (endpoint-independent mapping, RFC 4787, section 4.1).
// Remotes that the endpoint has not spoken to are not heard (section 5), but
// by the outlets of services.
type outlet struct {
	u       *udp
	fd      int
	host    peer
	at      wirePort // zero with the host's own address
	service *service // nil: made because the host spoke
	ours    bool     // the host is shown the card's address
	talks   int      // that need it
	last    *talk    // of the newest datagram: they come in runs
	lost    uint32   // what the socket had lost when last heard of
	closed  bool
	turn    func()
}

// wirePort is a port of the card that an outlet has.
type wirePort struct {
	family int
	port   uint16
}

// outletOf finds or makes the outlet of an endpoint of the host: with the
// host's port number where that is free (RFC 4787, sections 4.2.1 and 4.2.2),
// and in preserve mode with its address too.
func (u *udp) outletOf(host peer) (*outlet, error) {
	if o := u.outlets[host]; o != nil {
		return o, nil
	}
	at := wirePort{host.family(), host.port()}
	var fd int
	var err error
	switch {
	case u.conf.Preserve:
		at.port = 0
		fd, err = preservedSocket(host)
	case keepsPort(at.port) && u.wirePorts[at] == nil:
		if fd, err = wireSocket(at.family, at.port); err == nil {
			break
		}
		fallthrough
	default:
		if fd, err = wireSocket(at.family, 0); err == nil {
			at.port = localPort(fd)
		}
	}
	o, err := u.watchOutlet(fd, err, host, nil)
	if err == nil {
		u.outlets[host] = o
		o.take(at)
	}
	return o, err
}

// take notes that an outlet has a port of the card; 0 is none.
func (o *outlet) take(at wirePort) {
	if at.port != 0 {
		o.at = at
		o.u.wirePorts[at] = o
	}
}

// watchOutlet passes an error on, or makes an outlet of a socket.
func (u *udp) watchOutlet(fd int, err error, host peer, s *service) (*outlet, error) {
	if err != nil {
		return nil, err
	}
	o := &outlet{u: u, fd: fd, host: host, service: s}
	o.turn = o.receive
	if err := u.loop.Add(fd, unix.EPOLLIN, o); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	u.sockets++
	return o, nil
}

// release closes an outlet that nothing needs any more. What still comes for
// it is answered by the card's kernel, with port unreachable.
func (u *udp) release(o *outlet) {
	if o.talks > 0 || o.service != nil || o.closed {
		return
	}
	o.closed = true
	if u.outlets[o.host] == o {
		delete(u.outlets, o.host)
	}
	if u.wirePorts[o.at] == o {
		delete(u.wirePorts, o.at)
	}
	u.loop.Close(o.fd)
	u.sockets--
}

func (o *outlet) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		o.readErrors()
	}
	o.receive()
}

// receive takes what the wire sends to the host.
func (o *outlet) receive() { o.u.receive(o) }

func (o *outlet) descriptor() int { return o.fd }
func (o *outlet) gone() bool      { return o.closed }
func (o *outlet) again() func()   { return o.turn }

// pass sends n datagrams of the inbox to the host, those of one remote together.
func (o *outlet) pass(n int) {
	u := o.u
	var now *face
	for i := range n {
		d := &u.d
		u.in.get(i, d)
		if d.lost != o.lost {
			u.drop(dropSlow, uint64(d.lost-o.lost))
			o.lost = d.lost
		}
		t := o.last
		if t == nil || t.key.remote != d.from || t.local != d.to {
			u.flushFace(now) // what was collected, before anything that ends flows
			now = nil
			if t = o.find(d); t == nil {
				u.drop(dropStranger, d.count())
				continue
			}
			o.last = t
		}
		if t.face != now {
			u.flushFace(now)
			now = t.face
		}
		t.widen(d, n)
		u.talks.touch(t, false, u.loop.Now())
		u.count.ToHost += d.count()
		u.count.ToHostBytes += uint64(len(d.data))
		u.out.add(d, &t.key.host, nil, now.six)
	}
	u.flushFace(now)
	u.watchYoung()
}

func (u *udp) flushFace(f *face) {
	if f != nil {
		u.out.flush(f.fd, f)
	}
}

// find returns the flow that a datagram of the wire belongs to, or nil.
func (o *outlet) find(d *datagram) *talk {
	if o.service != nil {
		return o.service.find(o, d)
	}
	return o.u.talks.all[talkKey{host: o.host, remote: d.from}]
}
