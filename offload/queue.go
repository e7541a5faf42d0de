package offload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue holds packets until this program says what becomes of them:
// nfnetlink_queue. A message, in the byte order of the CPU where not said
// otherwise:
//
//	 0       4     6      8       12      16 17 18         20
//	┌───────┬─────┬──────┬───────┬───────┬──┬──┬──────────┬────────────
//	│length │type │flags │ seq   │ pid   │AF│0 │queue, BE │attributes…
//	└───────┴─────┴──────┴───────┴───────┴──┴──┴──────────┴────────────
//
// and an attribute:
//
//	 0       2     4
//	┌───────┬─────┬──────────────────────────┐
//	│length │type │payload, padded to 4 bytes│
//	└───────┴─────┴──────────────────────────┘
type queue struct {
	fd    int
	seq   uint32
	in    *letters
	out   []byte
	held  func(heldPacket)
	empty func() // all that was held when this turn began has been told; may be nil
	lost  func() // the kernel had no room for a packet's message
}

// heldPacket is the head of a packet that waits for its verdict. head is
// valid during the call.
type heldPacket struct {
	id   uint32
	head []byte // from the IP header on
}

// Messages and attributes of linux/netfilter/nfnetlink_queue.h.
const (
	queuePacket  = unix.NFNL_SUBSYS_QUEUE << 8
	queueVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	queueConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	attrPacketHeader  = 1
	attrVerdictHeader = 2
	attrMark          = 3
	attrPayload       = 10

	attrConfigCommand = 1
	attrConfigParams  = 2
	attrConfigLength  = 3

	commandBind = 1
	copyPacket  = 2

	messageHead = 16 + 4
)

const (
	// headBytes are enough for an IPv6 header, some extension headers, and TCP.
	headBytes = 128
	// maxHeld is how many packets the kernel may hold.
	maxHeld = 8192
)

// newQueue binds queueNumber. It fails with EBUSY or EPERM when another
// program has it.
func newQueue(held func(heldPacket), lost func()) (*queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter netlink socket: %w", err)
	}
	q := &queue{fd: fd, in: newLetters(), held: held, lost: lost}
	if err := q.bind(); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet queue %d: %w", queueNumber, err)
	}
	return q, nil
}

func (q *queue) bind() error {
	if err := unix.Bind(q.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// A burst of first segments must fit: a kilobyte or so each in the kernel.
	_ = unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	limit := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(q.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	for _, a := range [][]byte{
		attribute(attrConfigCommand, []byte{commandBind, 0, 0, 0}),
		attribute(attrConfigParams, append(binary.BigEndian.AppendUint32(nil, headBytes), copyPacket)),
		attribute(attrConfigLength, binary.BigEndian.AppendUint32(nil, maxHeld)),
	} {
		if err := q.configure(a); err != nil {
			return err
		}
	}
	return unix.SetNonblock(q.fd, true)
}

// configure sends one setting and waits for its acknowledgement.
func (q *queue) configure(a []byte) error {
	if err := q.send(queueConfig, unix.NLM_F_ACK, a); err != nil {
		return err
	}
	m := q.in.data[0][:]
	n, _, err := unix.Recvfrom(q.fd, m, 0)
	if err != nil {
		return fmt.Errorf("wait for the kernel's answer: %w", err)
	}
	if n < 20 || binary.NativeEndian.Uint16(m[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(m[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func (q *queue) send(kind, flags uint16, attributes ...[]byte) error {
	b := append(q.out[:0], make([]byte, messageHead)...)
	for _, a := range attributes {
		b = append(b, a...)
	}
	q.seq++
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], q.seq)
	binary.BigEndian.PutUint16(b[18:], queueNumber)
	q.out = b
	return unix.Sendto(q.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func attribute(kind uint16, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

// goOn lets a packet continue with a mark.
func (q *queue) goOn(id, mark uint32) {
	q.verdict(1, id, attribute(attrMark, binary.BigEndian.AppendUint32(nil, mark)))
}

// discard ends a packet.
func (q *queue) discard(id uint32) { q.verdict(0, id) }

// verdict answers for one packet. An error is that of a packet that is gone
// (its interface went down), and there is nobody to tell.
func (q *queue) verdict(verdict, id uint32, more ...[]byte) {
	head := binary.BigEndian.AppendUint32(nil, verdict)
	head = binary.BigEndian.AppendUint32(head, id)
	_ = q.send(queueVerdict, 0, append([][]byte{attribute(attrVerdictHeader, head)}, more...)...)
}

// ready reads what the kernel holds, many messages in one call: its
// registration is level triggered. It implements handler.
func (q *queue) ready(uint32) {
	n, err := q.in.receive(q.fd)
	if err == unix.ENOBUFS {
		q.lost()
	}
	for i := range n {
		q.parse(q.in.message(i))
	}
	if err == 0 && n < lettersSize && q.empty != nil {
		q.empty()
	}
}

// letters are the messages of one recvmmsg(2).
type letters struct {
	headers [lettersSize]mmsghdr
	vectors [lettersSize]unix.Iovec
	data    [lettersSize][letterBytes]byte
}

const (
	lettersSize = 16
	// letterBytes hold a message: headBytes, and a dozen short attributes.
	letterBytes = 2048
)

func newLetters() *letters {
	l := new(letters)
	for i := range l.headers {
		l.vectors[i].Base = &l.data[i][0]
		l.vectors[i].SetLen(letterBytes)
		l.headers[i].msg.Iov = &l.vectors[i]
		l.headers[i].msg.SetIovlen(1)
	}
	return l
}

func (l *letters) message(i int) []byte { return l.data[i][:min(int(l.headers[i].n), letterBytes)] }

func (l *letters) receive(fd int) (int, unix.Errno) {
	n, _, err := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&l.headers)),
		lettersSize, unix.MSG_DONTWAIT, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// parse takes messages one by one, and leaves at the first that is not whole.
func (q *queue) parse(b []byte) {
	for len(b) >= messageHead {
		length := binary.NativeEndian.Uint32(b)
		if length < messageHead || uint64(length) > uint64(len(b)) {
			return
		}
		if binary.NativeEndian.Uint16(b[4:]) == queuePacket {
			if p, ok := parsePacket(b[messageHead:length]); ok {
				q.held(p)
			}
		}
		b = b[min((uint64(length)+3)&^3, uint64(len(b))):]
	}
}

func parsePacket(b []byte) (p heldPacket, ok bool) {
	for len(b) >= 4 {
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			return p, false
		}
		payload := b[4:length]
		switch binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case attrPacketHeader:
			if len(payload) < 4 {
				return p, false
			}
			p.id, ok = binary.BigEndian.Uint32(payload), true
		case attrPayload:
			p.head = payload
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return p, ok
}
