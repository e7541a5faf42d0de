package agent

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peekZombie returns the process id of a zombie child without reaping it, or 0.
func peekZombie() int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0
		}
		break
	}
	// siginfo_t is three ints, padding to the alignment of a pointer, then
	// for SIGCHLD the pid (asm-generic/siginfo.h). x/sys does not name it.
	const size = unsafe.Sizeof(uintptr(0))
	offset := (3*4 + size - 1) / size * size
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset)))
}
