package vring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// commandSegments is how many segments a command may have; drivers use three.
const commandSegments = 16

// TakeCommand takes the next head of a ring with both directions: a command to be
// read, of which the first len(to) bytes are copied to to, and a byte to be
// written, nil if the chain has none. It returns the bytes copied. Errors and what
// to do with the head are those of Take.
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
