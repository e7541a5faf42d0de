package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_S390X
	x32Bit    = 0
	cloneArg  = 1 // CONFIG_CLONE_BACKWARDS2: the stack is the first argument
	mmapBlock = true
)

// pumpCallsArch does not have socketcall(2) and ipc(2), which make other calls.
var pumpCallsArch = []uintptr{unix.SYS_EPOLL_WAIT, unix.SYS_POLL}
