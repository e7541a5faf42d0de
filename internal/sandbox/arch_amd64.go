package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// x32Bit marks a system call of the x32 ABI, which shares the
	// architecture word with amd64 (asm/unistd.h, __X32_SYSCALL_BIT).
	x32Bit    = 0x40000000
	cloneArg  = 0
	mmapBlock = false
)

// pumpCallsArch are the calls of this architecture only.
var pumpCallsArch = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_POLL}
