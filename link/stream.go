package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// stream is a port over a stream socket, in the format of passt and QEMU's
// stream netdev: each Ethernet frame behind its length.
//
//	0            4
//	+------------+-------------- - -
//	| length, BE | Ethernet frame
//	+------------+-------------- - -
//
// A stream needs no privilege. It costs two copies more than a TAP towards the card,
// and one more from it. It has no offloads.
//
// A pump may be killed between any two of its instructions, and the next one
// gets the same socket. If the next one started in the middle of a frame, both sides
// would read payload as lengths from then on. So the socket is at the start of a
// frame in both directions whenever no system call is in progress. The socket and the
// rings hold all the state that the next pump needs:
//
//   - Frames are peeked first. They are consumed, a whole number of them in one
//     call, once the card has them and has been shown them. A pump that is killed
//     before that leaves them to the next one. The card then gets them twice, which IP
//     allows. A lost byte of the stream would break it.
//   - A frame is written whole or not at all. The kernel takes up to oneBuffer
//     bytes as one buffer, for which there is room or not. A longer frame takes
//     several buffers, so it waits until the kernel reports the socket as writable.
//     Then at most a quarter of its room is used (unix_writable in
//     net/unix/af_unix.c), and the rest holds any frame. SIGKILL does not interrupt
//     such a call, because none of them blocks. The card cannot interrupt it either,
//     because the call does not read the card's memory.
//
// Peeked frames take room in the socket, and a writer whose socket is full
// continues when three quarters of it are free. So the peer's send buffer must
// be four times a frame and a kernel buffer (SendBuffer). If it is smaller, the
// start of a large frame must be consumed before its end has arrived, and a kill at
// that moment does put the stream out of step.
//
// (Restarting passt with another pair of sockets would be simpler, but it would break
// every TCP connection through the port.)
type stream struct {
	in    []byte // what was read: in[:taken] is consumed, in[taken:to] is still in the socket as well
	taken int
	from  int // in[:from] has been delivered
	to    int
	most  int    // bytes of a frame that may stay in the socket
	out   []byte // the part of the last frame that the socket did not take, normally all of it
	begun bool   // out is only the rest of the frame: the kernel ran out of memory halfway
	dead  bool
}

const (
	streamHead = 4
	maxFrame   = frame.MaxPacket + frame.EtherLen + 4
	// oneBuffer is less than the kernel puts into one buffer of a unix
	// stream: 47 KiB with pages of 4 KiB, UNIX_SKB_FRAGS_SZ and a head.
	oneBuffer = 32 << 10
	// kernelBuffer is more than the kernel accounts for one such buffer.
	kernelBuffer = 64 << 10
)

// SendBuffer is the SO_SNDBUF that each end of a stream should have, in bytes.
// The kernel doubles it.
const SendBuffer = 512 << 10

func newStream(fd int) (*stream, error) {
	// Both ends have the same size, and only the size of this one can be read.
	room, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return nil, fmt.Errorf("the stream's socket: SO_SNDBUF: %w", err)
	}
	return &stream{
		in: make([]byte, 4*(maxFrame+streamHead)), out: make([]byte, 0, maxFrame+streamHead),
		most: max(room/4-kernelBuffer, 0),
	}, nil
}

// toCard delivers frames until the socket has none, as queuePair.toCard does.
func (s *stream) toCard(q *queuePair) bool {
	tries := 0
	for ; tries < turnPackets && !s.dead; tries++ {
		if !q.fill() {
			break
		}
		body, ok := s.next(q)
		if !ok {
			break
		}
		used := len(body) + frame.HeaderLen
		if used > q.win.bytes {
			count(&q.rx.ctr.tooSmall, 1)
			continue
		}
		*q.hdr = [frame.HeaderLen]byte{}
		q.win.write(frame.HeaderLen, body)
		q.deliver(len(body), used, 0)
		count(&q.rx.ctr.packets, 1)
		count(&q.rx.ctr.bytes, uint64(len(body)))
	}
	if q.rx.running() {
		q.rx.publish()
	}
	if s.from > 0 {
		s.consume(q)
	}
	return tries > 0
}

// next returns the next whole frame, valid until next is called again.
func (s *stream) next(q *queuePair) ([]byte, bool) {
	for {
		if have := s.to - s.from; have >= streamHead {
			n := int(binary.BigEndian.Uint32(s.in[s.from:]))
			if n < frame.EtherLen || n > maxFrame {
				s.end(q, fmt.Errorf("frame of %d bytes on the stream, want %d to %d", n, frame.EtherLen, maxFrame))
				return nil, false
			}
			if have >= streamHead+n {
				body := s.in[s.from+streamHead : s.from+streamHead+n]
				s.from += streamHead + n
				return body, true
			}
		}
		if !s.peek(q) {
			return nil, false
		}
	}
}

// peek peeks at the bytes of the socket that it has not seen yet, and reports
// whether there were any.
func (s *stream) peek(q *queuePair) bool {
	if s.from > 0 {
		q.rx.publish()
		s.consume(q)
	}
	if s.dead {
		return false
	}
	n, e := s.receive(q, s.in[s.taken:], unix.MSG_PEEK)
	switch {
	case e == unix.EAGAIN || e == unix.EINTR:
		return false
	case e != 0 || n == 0:
		s.end(q, streamEnded(e))
		return false
	case s.taken+n > s.to:
		s.to = s.taken + n
		return true
	case s.poll(q, unix.POLLRDHUP): // peeked bytes hide the end of file behind them
		s.end(q, streamEnded(0))
	case n > s.most:
		s.take(q, n)
	}
	return false
}

// consume reads the delivered frames out of the socket.
func (s *stream) consume(q *queuePair) {
	if s.from > s.taken {
		s.take(q, s.from-s.taken)
	}
	if !s.dead {
		s.to = copy(s.in, s.in[s.from:s.to])
		s.taken, s.from = s.taken-s.from, 0
	}
}

// take consumes n bytes. It reads them into the memory that they were peeked into, so that no
// missing page ends the call halfway.
func (s *stream) take(q *queuePair, n int) {
	for n > 0 {
		got, e := s.receive(q, s.in[s.taken:s.taken+n], 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 || got == 0 {
			s.end(q, streamEnded(e))
			return
		}
		s.taken += got
		n -= got
	}
}

func (s *stream) receive(q *queuePair, b []byte, flags uintptr) (int, unix.Errno) {
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov, Iovlen: 1}
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(q.fd), uintptr(unsafe.Pointer(&msg)), flags|unix.MSG_DONTWAIT)
	return int(n), e
}

// poll reports whether the socket has an event, without waiting for it.
func (s *stream) poll(q *queuePair, event int16) bool {
	p := unix.PollFd{Fd: int32(q.fd), Events: event}
	var now unix.Timespec
	n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return e == 0 && n == 1 && p.Revents&event != 0
}

// streamEnded returns the error of an ended stream: e, or an end of file if e is 0.
func streamEnded(e unix.Errno) error {
	if e == 0 {
		return errors.New("the stream ended: the peer has closed it")
	}
	return fmt.Errorf("the stream ended: %w", e)
}

func (s *stream) end(q *queuePair, err error) {
	if !s.dead {
		s.dead = true
		q.report(-1, err)
	}
}

// send writes a frame of n bytes from iov[1:]. It copies the frame first, so the card
// can neither change the checked bytes nor make the call fail halfway.
func (s *stream) send(q *queuePair, iov []unix.Iovec, n int) int {
	if *q.hdr != [frame.HeaderLen]byte{} {
		count(&q.tx.ctr.header, 1) // an offload that was never offered
		return 0
	}
	if n > maxFrame {
		count(&q.tx.ctr.long, 1)
		return 0
	}
	s.out, s.begun = binary.BigEndian.AppendUint32(s.out[:0], uint32(n)), false
	for _, v := range iov[1:] {
		s.out = append(s.out, unsafe.Slice(v.Base, v.Len)...)
	}
	if s.dead || forHost(s.out[streamHead:]) {
		s.out = s.out[:0]
		count(&q.tx.ctr.refused, 1)
		return 0
	}
	s.blocked(q)
	return n
}

// stuck reports whether the socket has not taken all of the last frame.
func (s *stream) stuck() bool { return len(s.out) > 0 && !s.dead }

// blocked tries to write the rest of the last frame, and reports whether a rest remains.
func (s *stream) blocked(q *queuePair) bool {
	if len(s.out) == 0 || s.dead {
		return false
	}
	if len(s.out) > oneBuffer && !s.begun && !s.poll(q, unix.POLLOUT) {
		return true
	}
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(q.fd), uintptr(unsafe.Pointer(&s.out[0])), uintptr(len(s.out)))
	if e == 0 {
		s.begun = true
		s.out = s.out[:copy(s.out, s.out[n:])]
	} else if e != unix.EAGAIN && e != unix.EINTR {
		s.end(q, streamEnded(e))
	}
	return len(s.out) > 0 && !s.dead
}
