package link

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// stream is a port whose other side is a stream socket, as passt and QEMU's
// stream netdev speak it: each Ethernet frame behind its length.
//
//	0            4
//	+------------+-------------- - -
//	| length, BE | Ethernet frame
//	+------------+-------------- - -
//
// It needs no privilege and costs a copy more than a TAP. There are no
// offloads on it.
type stream struct {
	in   []byte // bytes read, in[from:to] not yet delivered
	from int
	to   int
	out  []byte // what the socket did not take of the last frame
	size [4]byte
	dead bool
}

const (
	streamHead = 4
	maxFrame   = frame.MaxPacket + frame.EtherLen + 4
)

func newStream() *stream {
	return &stream{in: make([]byte, 4*(maxFrame+streamHead)), out: make([]byte, 0, maxFrame+streamHead)}
}

// toCard delivers frames until the socket has none, as queue.toCard does.
func (s *stream) toCard(q *queue) bool {
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
	return tries > 0
}

// next returns the next whole frame, valid until next is called again.
func (s *stream) next(q *queue) ([]byte, bool) {
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
		if !s.read(q) {
			return nil, false
		}
	}
}

func (s *stream) read(q *queue) bool {
	if s.from > 0 && len(s.in)-s.from < maxFrame+streamHead || s.from == s.to {
		s.to = copy(s.in, s.in[s.from:s.to])
		s.from = 0
	}
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(&s.in[s.to])), uintptr(len(s.in)-s.to))
	if e == unix.EAGAIN || e == unix.EINTR {
		return false
	}
	if e != 0 || n == 0 {
		s.end(q, fmt.Errorf("the stream ended: %w", e))
		return false
	}
	s.to += int(n)
	return true
}

func (s *stream) end(q *queue, err error) {
	if !s.dead {
		s.dead = true
		q.report(-1, err)
	}
}

// send writes a frame of n bytes from iov[1:]; iov[0] is free.
func (s *stream) send(q *queue, iov []unix.Iovec, n int) int {
	if *q.hdr != [frame.HeaderLen]byte{} {
		count(&q.tx.ctr.header, 1) // an offload that was never offered
		return 0
	}
	if s.dead {
		count(&q.tx.ctr.refused, 1)
		return 0
	}
	binary.BigEndian.PutUint32(s.size[:], uint32(n))
	iov[0] = unix.Iovec{Base: &s.size[0], Len: streamHead}
	sent, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if e != 0 && e != unix.EAGAIN && e != unix.EINTR {
		s.end(q, fmt.Errorf("the stream ended: %w", e))
		return 0
	}
	if e != 0 {
		sent = 0
	}
	// A frame begun must be finished: the rest is kept.
	for _, v := range iov {
		if sent >= uintptr(v.Len) {
			sent -= uintptr(v.Len)
			continue
		}
		s.out = append(s.out, unsafe.Slice(v.Base, v.Len)[sent:]...)
		sent = 0
	}
	return n
}

// stuck says whether the socket has not taken all of the last frame.
func (s *stream) stuck() bool { return len(s.out) > 0 && !s.dead }

// blocked tries to write what is left and says whether there still is any.
func (s *stream) blocked(q *queue) bool {
	if len(s.out) == 0 || s.dead {
		return false
	}
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(q.fd), uintptr(unsafe.Pointer(&s.out[0])), uintptr(len(s.out)))
	if e == 0 {
		s.out = s.out[:copy(s.out, s.out[n:])]
	} else if e != unix.EAGAIN && e != unix.EINTR {
		s.end(q, fmt.Errorf("the stream ended: %w", e))
	}
	return len(s.out) > 0 && !s.dead
}

// write copies b into the segments, skip bytes after their start.
func (w *window) write(skip int, b []byte) {
	for i := w.lo; len(b) > 0; i++ {
		seg := unsafe.Slice(w.iov[i].Base, w.iov[i].Len)
		if skip >= len(seg) {
			skip -= len(seg)
			continue
		}
		b = b[copy(seg[skip:], b):]
		skip = 0
	}
}
