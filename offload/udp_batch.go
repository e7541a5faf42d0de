package offload

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

const (
	// batchSize is the number of receives in a system call. Each may return a train of datagrams, so
	// a larger batch gains nothing.
	batchSize = 32
	// bufferSize is the maximum of one receive, in bytes: a train assembled by the kernel is a
	// packet of at most 65535.
	bufferSize = 1 << 16
	// controlSize has room for every control message that our sockets enable: the train's segment
	// size, the traffic class, the local address, losses.
	controlSize = 192
)

// inbox is the receive buffer. All its memory is allocated at the start; pages that were never used
// cost nothing.
type inbox struct {
	headers  [batchSize]raw.Mmsghdr
	vectors  [batchSize]unix.Iovec
	names    [batchSize]rawName
	controls [batchSize][controlSize / 8]uint64 // aligned for struct cmsghdr
	data     []byte
}

func newInbox() *inbox {
	b := &inbox{data: make([]byte, batchSize*bufferSize)}
	for i := range b.headers {
		b.vectors[i].Base = &b.data[i*bufferSize]
		b.vectors[i].SetLen(bufferSize)
		b.headers[i].Msg.Iov = &b.vectors[i]
		b.headers[i].Msg.SetIovlen(1)
		b.headers[i].Msg.Name = &b.names[i][0]
		b.headers[i].Msg.Control = (*byte)(unsafe.Pointer(&b.controls[i]))
	}
	return b
}

// receive receives up to batchSize datagrams or trains. Fewer mean that the socket is empty. EAGAIN
// is returned as 0 and no error.
func (b *inbox) receive(fd int) (int, unix.Errno) {
	for i := range b.headers {
		b.headers[i].Msg.Namelen = uint32(len(b.names[i]))
		b.headers[i].Msg.SetControllen(controlSize)
	}
	n, err := raw.Recvmmsg(fd, b.headers[:])
	if err == unix.EAGAIN {
		return 0, 0
	}
	return n, err
}

// datagram is a received datagram, or a train of them.
type datagram struct {
	data []byte
	from peer
	// segment is the size of each datagram of a train but the last, in
	// bytes; 0: data is one datagram.
	segment int
	class   uint8 // traffic class, the TOS byte
	// to is the destination. On sockets of services it has the address only, and index is the
	// interface that the datagram was received on.
	to    peer
	index int
	lost  uint32 // datagrams dropped for lack of room since SO_RXQ_OVFL was set on the socket
}

// count is the number of datagrams.
func (d *datagram) count() uint64 {
	if d.segment == 0 {
		return 1
	}
	return uint64((len(d.data) + d.segment - 1) / d.segment)
}

// get decodes receive i of the last call. data is valid until the next call of receive.
func (b *inbox) get(i int, d *datagram) {
	h := &b.headers[i]
	at := i * bufferSize
	*d = datagram{
		data: b.data[at : at+int(h.N) : at+bufferSize],
		from: peerFrom(b.names[i][:min(int(h.Msg.Namelen), len(b.names[i]))]),
	}
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), min(int(h.Msg.Controllen), controlSize))
	d.decode(control)
}

// decode reads control messages and skips unknown ones.
func (d *datagram) decode(control []byte) {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return
		}
		control = rest
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			// A "train" of one datagram is one.
			if n := int(int32(binary.NativeEndian.Uint32(data))); n > 0 && n < len(d.data) {
				d.segment = n
			}
		case h.Level == unix.SOL_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			d.class = data[0]
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			d.class = uint8(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_IP && h.Type == unix.IP_ORIGDSTADDR,
			h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR:
			d.to = peerFrom(data)
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			d.index = int(int32(binary.NativeEndian.Uint32(data)))
			copy(d.to[:], mapped[:])
			copy(d.to[12:16], data[8:12]) // ipi_addr: the header's destination
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			copy(d.to[:16], data)
			d.index = int(int32(binary.NativeEndian.Uint32(data[16:])))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			d.lost = binary.NativeEndian.Uint32(data)
		}
	}
}
