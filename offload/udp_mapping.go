package offload

import "golang.org/x/sys/unix"

// mapping is the socket of one endpoint of the host on the wire, whatever remote
// it sends to (endpoint-independent mapping, RFC 4787, section 4.1). Filtering is
// address- and port-dependent (section 5): datagrams of a remote that the endpoint
// has not sent to are dropped, except at the mappings of services.
type mapping struct {
	u        *udp
	fd       int
	host     peer
	at       wirePort // zero in preserve mode: the host's own address
	service  *service // nil: made because the host sent
	ours     bool     // the host is shown the card's address
	sessions int      // sessions over it
	last     *session // session of the newest datagram: they come in runs
	lost     uint32   // what the socket had lost at the last report
	closed   bool
	next     func()
}

// wirePort is a port of the card that a mapping has.
type wirePort struct {
	family int
	port   uint16
}

// mappingOf finds or makes the mapping of an endpoint of the host: with the
// host's port number where that is free (RFC 4787, sections 4.2.1 and 4.2.2),
// and in preserve mode with its address too.
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

// take notes that a mapping has a port of the card; 0 is none.
func (o *mapping) take(at wirePort) {
	if at.port != 0 {
		o.at = at
		o.u.wirePorts[at] = o
	}
}

// watchMapping passes an error on, or makes a mapping of a socket.
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

// release closes a mapping that no session needs. What still comes for
// it is answered by the card's kernel, with port unreachable.
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

// receive takes what the wire sends to the host.
func (o *mapping) receive() { o.u.receive(o) }

func (o *mapping) descriptor() int { return o.fd }
func (o *mapping) gone() bool      { return o.closed }
func (o *mapping) turn() func()    { return o.next }

// forward sends n datagrams of the inbox to the host, those of one remote together.
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
			u.flushDownstream(now) // what was collected, before anything that ends flows
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

// find returns the flow that a datagram of the wire belongs to, or nil.
func (o *mapping) find(d *datagram) *session {
	if o.service != nil {
		return o.service.find(o, d)
	}
	return o.u.sessions.all[sessionKey{host: o.host, remote: d.from}]
}
