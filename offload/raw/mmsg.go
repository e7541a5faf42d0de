package raw

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type Mmsghdr struct {
	Msg unix.Msghdr
	N   uint32 // bytes received or sent
}

// Recvmmsg receives pending messages, at most one per header, and returns their number. It does not
// wait: EAGAIN means that none is pending.
func Recvmmsg(fd int, headers []Mmsghdr) (int, unix.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, headers)
}

// Sendmmsg sends the messages and returns the number accepted, or the error of the first. It does
// not wait.
func Sendmmsg(fd int, headers []Mmsghdr) (int, unix.Errno) {
	return mmsg(unix.SYS_SENDMMSG, fd, headers)
}

func mmsg(call uintptr, fd int, headers []Mmsghdr) (int, unix.Errno) {
	for {
		Calls.Add(1)
		n, _, err := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}
