package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	x32Bit    = 0
)

// pumpCallsArch: arm64 never had the calls that newer ones replaced.
var pumpCallsArch []uintptr

// umlCallsArch is empty for now: User-Mode Linux is an x86 port.
var umlCallsArch []uintptr
