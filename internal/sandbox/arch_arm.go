package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_ARM
	x32Bit    = 0
	cloneArg  = 0
	mmapBlock = false
)

// pumpCallsArch has the forms of calls with files over 2 GiB and times after 2038, which the Go
// runtime tries first.
var pumpCallsArch = []uintptr{
	unix.SYS_EPOLL_WAIT, unix.SYS_POLL, unix.SYS_FSTAT64, unix.SYS_SIGRETURN,
	unix.SYS_FUTEX_TIME64, unix.SYS_PPOLL_TIME64, unix.SYS_CLOCK_GETTIME64, unix.SYS_CLOCK_NANOSLEEP_TIME64,
}
