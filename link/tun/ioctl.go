package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, request uintptr, arg *byte) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); e != 0 {
		return e
	}
	return nil
}
