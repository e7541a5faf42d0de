package offload

import "golang.org/x/sys/unix"

// mapping is the socket of one endpoint of the host on the wire, for all its remotes
// (endpoint-independent mapping, RFC 4787, section 4.1). Filtering is address- and port-dependent
// (section 5): datagrams of a remote that the endpoint has not sent to are dropped, except on
// mappings of services.
type mapping struct {
	u        *udp
	fd       int
	host     peer
	at       wirePort // zero in preserve mode: the host's own address
	service  *service // nil: made because the host sent
	ours     bool     // the host is shown the card's address
	sessions int      // sessions over it
	last     *session // session of the newest datagram: they come in runs
	lost     uint32   // last known count of datagrams dropped by the socket
	closed   bool
	next     func()
}

// wirePort is a port of the card used by a mapping.
type wirePort struct {
	family int
	port   uint16
}

// mappingOf finds or makes the mapping of an endpoint of the host. It has the host's port number if
// that is free (RFC 4787, sections 4.2.1 and 4.2.2), and in preserve mode the host's address too.
func (u *udp) mappingOf(host peer) (*mapping, error) {
	if o := u.mappings[host]; o != nil {
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
	o, err := u.watchMapping(fd, err, host, nil)
	if err == nil {
		u.mappings[host] = o
		o.take(at)
	}
	return o, err
}

// take records the port of the card used by a mapping; 0 means none.
func (o *mapping) take(at wirePort) {
	if at.port != 0 {
		o.at = at
		o.u.wirePorts[at] = o
	}
}

// watchMapping makes a mapping of a socket and adds it to the loop. It returns err if not nil.
func (u *udp) watchMapping(fd int, err error, host peer, s *service) (*mapping, error) {
	if err != nil {
		return nil, err
	}
	o := &mapping{u: u, fd: fd, host: host, service: s}
	o.next = o.receive
	if err := u.loop.Add(fd, unix.EPOLLIN, o); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	u.sockets++
	return o, nil
}

// release closes a mapping without sessions. The card's kernel answers later datagrams to its port
// with port unreachable.
func (u *udp) release(o *mapping) {
	if o.sessions > 0 || o.service != nil || o.closed {
		return
	}
	o.closed = true
	if u.mappings[o.host] == o {
		delete(u.mappings, o.host)
	}
	if u.wirePorts[o.at] == o {
		delete(u.wirePorts, o.at)
	}
	u.loop.Close(o.fd)
	u.sockets--
}

func (o *mapping) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		o.readErrors()
	}
	o.receive()
}

// receive reads datagrams of the wire for the host.
func (o *mapping) receive() { o.u.receive(o) }

func (o *mapping) descriptor() int { return o.fd }
func (o *mapping) gone() bool      { return o.closed }
func (o *mapping) turn() func()    { return o.next }

// forward sends n datagrams of the inbox to the host. Consecutive datagrams of one remote are sent
// together.
func (o *mapping) forward(n int) {
	u := o.u
	var now *downstream
	for i := range n {
		d := &u.d
		u.in.get(i, d)
		if d.lost != o.lost {
			u.drop(dropSlow, uint64(d.lost-o.lost))
			o.lost = d.lost
		}
		t := o.last
		if t == nil || t.key.remote != d.from || t.local != d.to {
			u.flushDownstream(now) // find may end sessions: send what was collected first
			now = nil
			if t = o.find(d); t == nil {
				u.drop(dropStranger, d.count())
				continue
			}
			o.last = t
		}
		if t.down != now {
			u.flushDownstream(now)
			now = t.down
		}
		t.widen(d, n)
		u.sessions.touch(t, false, u.loop.Now())
		u.count.ToHost += d.count()
		u.count.ToHostBytes += uint64(len(d.data))
		u.out.add(d, &t.key.host, nil, now.six)
	}
	u.flushDownstream(now)
	u.watchNew()
}

func (u *udp) flushDownstream(f *downstream) {
	if f != nil {
		u.out.flush(f.fd, f)
	}
}

// find returns the session of a datagram of the wire, or nil.
func (o *mapping) find(d *datagram) *session {
	if o.service != nil {
		return o.service.find(o, d)
	}
	return o.u.sessions.all[sessionKey{host: o.host, remote: d.from}]
}
