package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_PPC64LE
	x32Bit    = 0
	cloneArg  = 0
	mmapBlock = false
)

// pumpCallsArch does not have socketcall(2) and ipc(2), which make other calls.
var pumpCallsArch = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_POLL}
