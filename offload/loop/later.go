package loop

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// Calls whose errors are of no use to the caller. With a ring they are made with the next wait, in
// order, and cost no system call of their own; without one, at once.

// SetOption sets a socket option with an integer value.
func (l *Loop) SetOption(fd, level, name, value int) {
	if l.ring == nil {
		_ = raw.Setsockopt(fd, level, name, value)
		return
	}
	v := int32(value)
	l.ring.SetOption(fd, level, name, bytesOf(&v))
}

// SetLinger selects whether the end of a socket resets its connection or ends it in order.
func (l *Loop) SetLinger(fd int, reset bool) {
	if l.ring == nil {
		_ = raw.SetLinger(fd, reset)
		return
	}
	v := unix.Linger{}
	if reset {
		v.Onoff = 1
	}
	l.ring.SetOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, bytesOf(&v))
}

// Tell sends a message of at most ring.ArgSize bytes to a socket's peer.
func (l *Loop) Tell(fd int, message []byte) {
	if l.ring == nil {
		_ = raw.SendTo(fd, message, 0, nil)
		return
	}
	l.ring.Tell(fd, message)
}

// CloseLater is Close for a connection. Its port may be in use until Settle.
func (l *Loop) CloseLater(fd int) {
	if l.ring == nil {
		l.Close(fd)
		return
	}
	l.slots[fd].h = nil
	l.ring.CloseSocket(fd)
}

// Settle makes calls that wait for the next wait now.
func (l *Loop) Settle() {
	if l.ring != nil {
		_ = l.ring.Submit() // the next wait reports an error
	}
}

func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }
