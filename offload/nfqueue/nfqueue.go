// Package nfqueue holds packets in the kernel until a program decides on them:
// nfnetlink_queue (linux/netfilter/nfnetlink_queue.h).
package nfqueue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// Packet is the head of a held packet. The kernel waits for a verdict by ID.
type Packet struct {
	ID   uint32
	Head []byte // from the IP header on, at most 128 bytes; valid during the call
}

// Queue is one queue of the network namespace that it was opened in.
// It belongs to one thread.
type Queue struct {
	// Empty, if not nil, is called when every packet held at the start of Ready has been reported.
	Empty func()
	// Tell, if not nil, sends a verdict to the kernel: a message to the peer of a socket.
	Tell func(fd int, message []byte)

	fd     int
	number uint16
	seq    uint32
	in     *batch
	out    []byte
	held   func(Packet)
	lost   func()
}

const (
	// headBytes is enough for an IPv6 header, some extension headers, and TCP.
	headBytes = 128
	// maxHeld is the maximum number of packets held by the kernel.
	maxHeld = 8192
)

// Open binds a queue by its number. held is called for each packet, lost when the kernel had no
// room for a packet's message. Open fails with EBUSY or EPERM when another program has bound the
// queue.
func Open(number uint16, held func(Packet), lost func()) (*Queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter netlink socket: %w", err)
	}
	q := &Queue{fd: fd, number: number, in: newBatch(), held: held, lost: lost}
	if err := q.bind(); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet queue %d: %w", number, err)
	}
	return q, nil
}

// FD returns the descriptor to watch, level-triggered, for input. The caller closes it.
func (q *Queue) FD() int { return q.fd }

func (q *Queue) bind() error {
	if err := unix.Bind(q.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// A burst of SYNs must fit: about a kilobyte each in the kernel.
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
func (q *Queue) configure(a []byte) error {
	if err := q.send(kindConfig, unix.NLM_F_ACK, a); err != nil {
		return err
	}
	m := q.in.data[0][:]
	n, _, err := unix.Recvfrom(q.fd, m, 0)
	if err != nil {
		return fmt.Errorf("wait for the kernel's answer: %w", err)
	}
	if n < 20 || binary.NativeEndian.Uint16(m[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is not an acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(m[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func (q *Queue) send(kind, flags uint16, attributes ...[]byte) error {
	q.seq++
	q.out = appendMessage(q.out[:0], kind, flags, q.seq, q.number, attributes...)
	if q.Tell != nil && kind == kindVerdict {
		q.Tell(q.fd, q.out)
		return nil
	}
	return raw.SendTo(q.fd, q.out, 0, nil) // to the kernel
}

// Accept lets a packet continue with a mark.
func (q *Queue) Accept(id, mark uint32) {
	q.verdict(verdictAccept, id, attribute(attrMark, binary.BigEndian.AppendUint32(nil, mark)))
}

// Drop discards a packet.
func (q *Queue) Drop(id uint32) { q.verdict(verdictDrop, id) }

// verdict sends the verdict on one packet. It fails only for a packet that is gone because its
// interface went down, so the error is ignored.
func (q *Queue) verdict(verdict, id uint32, more ...[]byte) {
	head := binary.BigEndian.AppendUint32(nil, verdict)
	head = binary.BigEndian.AppendUint32(head, id)
	_ = q.send(kindVerdict, 0, append([][]byte{attribute(attrVerdictHeader, head)}, more...)...)
}

// Ready reads pending messages, up to BatchSize in one call.
func (q *Queue) Ready(uint32) {
	n, err := q.in.receive(q.fd)
	if err == unix.ENOBUFS {
		q.lost()
	}
	for i := range n {
		q.parse(q.in.message(i))
	}
	if err == 0 && n < BatchSize && q.Empty != nil {
		q.Empty()
	}
}
