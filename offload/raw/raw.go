// Package raw makes system calls that cannot block without telling Go's
// scheduler.
//
// An ordinary call returns the thread's processor (P) to the scheduler and reacquires it. On
// User-Mode Linux, where each system call takes about 11 µs, the futexes, sleeps and clock readings
// of that were a third of the cost of a small request. The thread keeps its processor during a raw
// call, and the garbage collector waits for it. So this package has only calls that return at once,
// and a wait of at most a millisecond.
package raw

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls counts the calls that this package has made.
var Calls atomic.Uint64

// result is a return value and the error of a call.
func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func failure(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// Close closes a descriptor.
func Close(fd int) error {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return failure(errno)
}

// Read reads from a non-blocking descriptor.
func Read(fd int, b []byte) (int, error) {
	Calls.Add(1)
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

// Write writes to a non-blocking descriptor.
func Write(fd int, b []byte) (int, error) {
	Calls.Add(1)
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

// Splice moves up to n bytes between a non-blocking pipe and a non-blocking socket. It does not set
// SPLICE_F_MORE: the last segment would be delayed.
func Splice(from, to, n int) (int, error) {
	Calls.Add(1)
	k, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return result(k, errno)
}

// Pipe makes a non-blocking pipe.
func Pipe(size int) (r, w int, err error) {
	Calls.Add(2)
	var fds [2]int32
	if _, _, errno := unix.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), unix.O_NONBLOCK|unix.O_CLOEXEC, 0); errno != 0 {
		return -1, -1, errno
	}
	// Fails for want of memory: the default size does too.
	_, _, _ = unix.RawSyscall(unix.SYS_FCNTL, uintptr(fds[0]), unix.F_SETPIPE_SZ, uintptr(size))
	return int(fds[0]), int(fds[1]), nil
}

// IoctlInt is ioctl(2) for a request that returns an int.
func IoctlInt(fd int, request uint) (int, error) {
	Calls.Add(1)
	var value int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&value)))
	return int(value), failure(errno)
}

// EpollCtl is epoll_ctl(2).
func EpollCtl(epoll, op, fd int, ev *unix.EpollEvent) error {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return failure(errno)
}

// EpollWait waits for at most a millisecond, or not at all.
func EpollWait(epoll int, events []unix.EpollEvent, wait bool) (int, error) {
	Calls.Add(1)
	var ms uintptr
	if wait {
		ms = 1
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), ms, 0, 0)
	return result(n, errno)
}

// TimerfdSettime sets a timer relative to now.
func TimerfdSettime(fd int, in *unix.ItimerSpec) error {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(in)), 0, 0, 0)
	return failure(errno)
}

// EnterRing is io_uring_enter(2). The caller limits the wait to a millisecond.
func EnterRing(fd int, submit, least, flags uint32, arg unsafe.Pointer, size uintptr) unix.Errno {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(least), uintptr(flags), uintptr(arg), size)
	return errno
}
