package vring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// commandSegments is the most segments that a command may have. Drivers use three.
const commandSegments = 16

// TakeRequest takes the next head of a ring with both directions. iov must be empty and have
// capacity. It returns the segments to read and those to write, which share iov's memory. For errors
// and the head, see Take.
func (r *Ring) TakeRequest(iov []unix.Iovec) (head uint16, read, write []unix.Iovec, err error) {
	r.readable = 0
	head, iov, _, err = r.Take(iov[:0])
	if err != nil {
		return head, nil, nil, err
	}
	return head, iov[:r.readable], iov[r.readable:], nil
}

// TakeCommand takes the next head of a ring with both directions. It copies the
// first len(to) bytes of the command to to, and returns the number of bytes copied
// and the acknowledgement byte to write, nil if the chain has none. For errors and
// the head, see Take.
func (r *Ring) TakeCommand(to []byte) (head uint16, n int, ack *byte, err error) {
	var room [commandSegments]unix.Iovec
	head, read, write, err := r.TakeRequest(room[:0])
	if err != nil {
		return head, 0, nil, err
	}
	for _, v := range read {
		n += copy(to[n:], unsafe.Slice(v.Base, v.Len))
	}
	if len(write) > 0 {
		ack = write[0].Base
	}
	return head, n, ack, nil
}
