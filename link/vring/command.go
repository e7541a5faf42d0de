package vring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// commandSegments is the most segments that a command may have. Drivers use three.
const commandSegments = 16

// TakeCommand takes the next head of a ring with both directions. It copies the
// first len(to) bytes of the command to to, and returns the number of bytes copied
// and the acknowledgement byte to write, nil if the chain has none. For errors and
// the head, see Take.
func (r *Ring) TakeCommand(to []byte) (head uint16, n int, ack *byte, err error) {
	var room [commandSegments]unix.Iovec
	r.readable = 0
	head, iov, _, err := r.Take(room[:0])
	if err != nil {
		return head, 0, nil, err
	}
	for _, v := range iov[:r.readable] {
		n += copy(to[n:], unsafe.Slice(v.Base, v.Len))
	}
	if r.readable < len(iov) {
		ack = iov[r.readable].Base
	}
	return head, n, ack, nil
}
