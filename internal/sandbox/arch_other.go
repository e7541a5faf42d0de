//go:build !amd64 && !arm64 && !arm && !riscv64 && !ppc64le && !s390x

package sandbox

// There are no filters for this architecture: its calls, and the positions of their arguments, are
// not verified. Assemble refuses, so that nothing runs less confined than reported.
const (
	auditArch = 0
	x32Bit    = 0
	cloneArg  = 0
	mmapBlock = false
)

var pumpCallsArch []uintptr
