package offload

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Types and codes of ICMP errors.
const (
	unreachable4 = 3 // RFC 792, RFC 1812 section 5.2.7.1
	fragments4   = 4
	exceeded4    = 11
	parameter4   = 12
	unreachable6 = 1 // RFC 4443, section 3
	exceeded6    = 3
	parameter6   = 4
)

// reported is an ICMP error as the kernel queues it: struct sock_extended_err of linux/errqueue.h,
// followed by the offender.
//
//	 0      4       5     6     7   8     12    16
//	┌──────┬───────┬─────┬─────┬───┬─────┬─────┬────────────────────────────┐
//	│errno │origin │type │code │0  │info │data │socket address of who says so│
//	└──────┴───────┴─────┴─────┴───┴─────┴─────┴────────────────────────────┘
type reported struct {
	kind, code uint8
	offender   peer
}

// parseReported finds an ICMP error in control messages.
func parseReported(control []byte) (r reported, ok bool) {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return reported{}, false
		}
		control = rest
		four := h.Level == unix.SOL_IP && h.Type == unix.IP_RECVERR
		six := h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_RECVERR
		if !four && !six || len(data) < 16 {
			continue
		}
		if origin := data[4]; origin != unix.SO_EE_ORIGIN_ICMP && origin != unix.SO_EE_ORIGIN_ICMP6 {
			return reported{}, false
		}
		return reported{kind: data[5], code: data[6], offender: peerFrom(data[16:])}, true
	}
	return reported{}, false
}

// forHost reports whether an error is passed to the host. "Too big" is not: the card sends
// fragments next time.
func (r reported) forHost(four bool) bool {
	if four {
		return r.kind == unreachable4 && r.code != fragments4 || r.kind == exceeded4 || r.kind == parameter4
	}
	return r.kind == unreachable6 || r.kind == exceeded6 || r.kind == parameter6
}

// takeErrors empties a socket's error queue. Each error is about a datagram to target, whose
// payload begins with quoted. each returns false when it has closed the socket, because the
// descriptor number may have been reused.
func takeErrors(fd int, each func(r reported, target peer, quoted []byte) (more bool)) (n int) {
	var room [64]uint64
	control := bytesOf(&room)
	quoted := make([]byte, 1280)
	for range 64 {
		size, controlSize, _, about, err := unix.Recvmsg(fd, quoted, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return n
		}
		n++
		r, ok := parseReported(control[:controlSize])
		if ok && !each(r, peerOf(addrPort(about)), quoted[:size]) {
			return n
		}
	}
	return n
}

// readErrors passes the wire's errors to the host. The kernel has matched each error with the
// socket by the quoted ports; readErrors checks that the remote has a session.
func (o *mapping) readErrors() int {
	return takeErrors(o.fd, func(r reported, remote peer, quoted []byte) bool {
		t := o.u.sessions.all[sessionKey{host: o.host, remote: remote}]
		if t != nil && r.forHost(remote.is4()) {
			o.u.reportToHost(t, r, quoted)
		}
		return true
	})
}

// reportToHost sends the host an ICMP error about a datagram of a session, so that its socket gets the
// same error as without the card.
func (u *udp) reportToHost(t *session, r reported, quoted []byte) {
	if r.offender != (peer{}) && isOwn(r.offender) {
		r.offender = peer{} // the card itself: with the address that the host knows
	}
	if u.icmp.send(&icmpError{
		kind: r.kind, code: r.code, to: t.key.host, from: r.offender,
		source: t.key.host, target: t.key.remote, quoted: quoted,
	}) {
		u.count.Errors++
	}
}

// refused implements sink. A soft error may be an ICMP error about an earlier datagram, which the
// kernel reports at the next call. Only the second one is about this datagram.
func (o *mapping) refused(r refusal) bool {
	u := o.u
	switch r.err {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		u.drop(dropBuffer, r.count)
		return false
	}
	if o.readErrors() > 0 || r.attempt == 0 {
		return true
	}
	if r.err == unix.EMSGSIZE {
		u.drop(dropSize, r.count)
		return false
	}
	u.drop(dropRoute, r.count)
	e, ok := noRoute(r.err, r.to.is4())
	if t := u.sessions.all[sessionKey{host: o.host, remote: *r.to}]; ok && t != nil {
		u.reportToHost(t, e, nil)
	}
	return false
}

// routeCodes are the ICMP codes for errors of the card's own routes and rules, in IPv4 and IPv6.
var routeCodes = map[unix.Errno][2]uint8{
	unix.ENETUNREACH:  {0, 0},
	unix.EHOSTUNREACH: {1, 3},
	unix.EACCES:       {13, 1}, // a route of type prohibit
	unix.EPERM:        {13, 1}, // a rule of the card's firewall
}

func noRoute(err unix.Errno, four bool) (reported, bool) {
	codes, ok := routeCodes[err]
	if four {
		return reported{kind: unreachable4, code: codes[0]}, ok
	}
	return reported{kind: unreachable6, code: codes[1]}, ok
}

// readErrors handles the host's errors about datagrams from the wire.
func (f *downstream) readErrors() int {
	u := f.u
	return takeErrors(f.fd, func(r reported, host peer, _ []byte) bool {
		if r.kind != unreachable4 && host.is4() || r.kind != unreachable6 && !host.is4() {
			return true
		}
		t := u.sessions.all[sessionKey{host: host, remote: f.at, ours: f.own != nil}]
		if t != nil && t.down == f {
			u.unheard(t)
		}
		return !f.closed
	})
}

// refused implements sink. As with a mapping, a soft error may be about an earlier datagram.
func (f *downstream) refused(r refusal) bool {
	u := f.u
	switch r.err {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		u.drop(dropBuffer, r.count)
		return false
	case unix.EMSGSIZE:
		u.drop(dropSize, r.count)
		return false
	}
	if !f.closed && (f.readErrors() > 0 || r.attempt == 0) && !f.closed {
		return true
	}
	u.drop(dropHost, r.count)
	return false
}

// unheard ends a session whose socket on the host is closed: the host has answered with port
// unreachable. The mapping closes with its last session, and the card's kernel then answers the
// wire with the same error. The mapping of a service stays open, so unheard sends the error to the
// client.
func (u *udp) unheard(t *session) {
	if s := t.up.service; s != nil && t.local != (peer{}) && u.icmp.tokens > 0 {
		u.icmp.tokens--
		at := t.local
		binary.BigEndian.PutUint16(at[16:], s.publish.Port)
		kind, code := uint8(unreachable4), uint8(3)
		if !at.is4() {
			kind, code = unreachable6, 4
		}
		u.icmp.send(&icmpError{kind: kind, code: code, to: t.key.remote, from: at, source: t.key.remote, target: at})
	}
	u.endSession(t)
}

// bytesOf returns room as bytes aligned for struct cmsghdr.
func bytesOf[T any](room *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(room)), unsafe.Sizeof(*room))
}
