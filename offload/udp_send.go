package offload

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// sink is what an outbox sends to.
type sink interface {
	// refused handles a datagram or train that the kernel did not send. It returns true to have it
	// sent again.
	refused(refusal) (again bool)
	// gone reports that the socket is closed, possibly by refused: the descriptor number may have
	// been reused.
	gone() bool
}

// refusal is a datagram or a train that the kernel did not send.
type refusal struct {
	to      *peer // nil: the socket's connected peer
	err     unix.Errno
	attempt int // 0 is the first
	count   uint64
}

// outbox collects datagrams for one socket and sends them in one call.
type outbox struct {
	headers  [batchSize]raw.Mmsghdr
	vectors  [batchSize]unix.Iovec
	names    [batchSize]rawName
	peers    [batchSize]peer
	segments [batchSize]int
	controls [batchSize][controlSize / 8]uint64
	n        int
}

func newOutbox() *outbox {
	b := new(outbox)
	for i := range b.headers {
		b.headers[i].Msg.Iov = &b.vectors[i]
		b.headers[i].Msg.SetIovlen(1)
	}
	return b
}

// add appends a datagram or a train: at most batchSize between two flushes. Its data is read by
// flush. to is nil on a connected socket; local, if not nil, is the source address. six means an
// IPv6 socket.
func (b *outbox) add(d *datagram, to, local *peer, six bool) {
	i := b.n
	b.n++
	b.vectors[i].SetLen(len(d.data))
	b.vectors[i].Base = unsafe.SliceData(d.data)
	m := &b.headers[i].Msg
	m.Name, m.Namelen = nil, 0
	if to != nil {
		b.peers[i] = *to
		m.Name, m.Namelen = &b.names[i][0], uint32(b.names[i].put(to))
	}
	b.segments[i] = d.segment
	b.control(i, d.class, d.segment, six, local)
}

// control writes the control messages of a datagram. UDP_SEGMENT is the last one, so that split can
// remove it.
func (b *outbox) control(i int, class uint8, segment int, six bool, local *peer) {
	c := controls{buf: unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), controlSize)}
	if class != 0 && six {
		binary.NativeEndian.PutUint32(c.add(unix.SOL_IPV6, unix.IPV6_TCLASS, 4), uint32(class))
	} else if class != 0 {
		binary.NativeEndian.PutUint32(c.add(unix.SOL_IP, unix.IP_TOS, 4), uint32(class))
	}
	if local != nil {
		c.source(local)
	}
	if segment != 0 {
		binary.NativeEndian.PutUint16(c.add(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(segment))
	}
	m := &b.headers[i].Msg
	m.Control = nil
	if c.n > 0 {
		m.Control = &c.buf[0]
	}
	m.SetControllen(c.n)
}

// controls are control messages (cmsg(3)) under construction.
type controls struct {
	buf []byte
	n   int
}

// add returns the room for the message's data, zeroed.
func (c *controls) add(level, kind int32, size int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.buf[c.n]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	data := c.buf[c.n+unix.CmsgLen(0) : c.n+unix.CmsgSpace(size)]
	clear(data)
	c.n += unix.CmsgSpace(size)
	return data
}

// source adds the source address. The route selects the interface.
func (c *controls) source(local *peer) {
	if local.is4() {
		copy(c.add(unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[4:8], local[12:16]) // ipi_spec_dst
	} else {
		copy(c.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo), local[:16])
	}
}

// out adds the outgoing interface. The source is an address of the interface.
func (c *controls) out(index int, four bool) {
	if four {
		data := c.add(unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		binary.NativeEndian.PutUint32(data, uint32(index)) // ipi_ifindex
	} else {
		data := c.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		binary.NativeEndian.PutUint32(data[16:], uint32(index)) // ipi6_ifindex
	}
}

// flush sends what was added.
func (b *outbox) flush(fd int, s sink) {
	n := b.n
	b.n = 0
	for i := 0; i < n; {
		sent, err := raw.Sendmmsg(fd, b.headers[i:n])
		if err == 0 {
			i += sent
			continue
		}
		if b.segments[i] != 0 && (err == unix.EMSGSIZE || err == unix.EINVAL || err == unix.EIO) {
			// The datagrams need fragments, or the device or policy does not support trains.
			b.split(fd, i, s)
		} else {
			b.retry(fd, i, s, err)
		}
		for i++; i < n && s.gone(); i++ {
			s.refused(b.refusal(i, unix.EBADF))
		}
	}
}

// retry sends again what was refused while the sink asks for it, four times at most.
func (b *outbox) retry(fd, i int, s sink, err unix.Errno) {
	r := b.refusal(i, err)
	for ; r.attempt < 4 && s.refused(r); r.attempt++ {
		if _, r.err = raw.Sendmmsg(fd, b.headers[i:i+1]); r.err == 0 {
			return
		}
	}
}

func (b *outbox) refusal(i int, err unix.Errno) refusal {
	r := refusal{err: err, count: 1}
	if b.headers[i].Msg.Name != nil {
		r.to = &b.peers[i]
	}
	if size := b.segments[i]; size != 0 {
		r.count = uint64((int(b.vectors[i].Len) + size - 1) / size)
	}
	return r
}

// split sends the datagrams of a train one by one.
func (b *outbox) split(fd, i int, s sink) {
	v, m := &b.vectors[i], &b.headers[i].Msg
	train, size := unsafe.Slice(v.Base, int(v.Len)), b.segments[i]
	b.segments[i] = 0
	m.SetControllen(int(m.Controllen) - unix.CmsgSpace(2))
	for len(train) > 0 {
		if s.gone() {
			s.refused(refusal{to: &b.peers[i], err: unix.EBADF, count: uint64((len(train) + size - 1) / size)})
			return
		}
		n := min(size, len(train))
		v.Base = &train[0]
		v.SetLen(n)
		train = train[n:]
		if _, err := raw.Sendmmsg(fd, b.headers[i:i+1]); err != 0 {
			b.retry(fd, i, s, err)
		}
	}
}
