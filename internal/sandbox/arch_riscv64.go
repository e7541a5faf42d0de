package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_RISCV64
	x32Bit    = 0
	cloneArg  = 0
	mmapBlock = false
)

// pumpCallsArch: riscv64 never had the calls that newer ones replaced.
var pumpCallsArch []uintptr
