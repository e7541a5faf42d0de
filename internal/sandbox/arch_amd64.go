package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// x32Bit marks a system call of the x32 ABI, which shares the
	// architecture word with amd64 (asm/unistd.h, __X32_SYSCALL_BIT).
	x32Bit = 0x40000000
)

// pumpCallsArch are the calls of this architecture only.
var pumpCallsArch = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_POLL}

// umlCallsArch are the older forms that the kernel's own start-up code and
// the C library of its build still use.
var umlCallsArch = []uintptr{
	unix.SYS_ARCH_PRCTL, unix.SYS_POLL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_CREATE, unix.SYS_SELECT, unix.SYS_SIGNALFD,
	unix.SYS_OPEN, unix.SYS_ACCESS, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_READLINK,
	unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_DUP2, unix.SYS_PIPE, unix.SYS_GETPGRP, unix.SYS_TIME, unix.SYS_GETRLIMIT,
	unix.SYS_VFORK, unix.SYS_FORK, unix.SYS_MODIFY_LDT,
}
