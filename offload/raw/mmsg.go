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

// Recvmmsg receives what is there, at most a message for each header, and returns how many. It does not
// wait: EAGAIN says that there is none.
func Recvmmsg(fd int, headers []Mmsghdr) (int, unix.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, headers)
}

// Sendmmsg sends the messages and returns how many were taken, or why the first was not. It does not
// wait.
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
