package sandbox

import "golang.org/x/sys/unix"

// The plain numbers of 32-bit arm are those of older calls: mmap(2) with its arguments in memory,
// and user ids of 16 bits.
const (
	sysMmap      = unix.SYS_MMAP2
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresuid = unix.SYS_SETRESUID32
	sysSetresgid = unix.SYS_SETRESGID32
)

// fcntlCalls: the Go runtime uses the form for files over 2 GiB.
var fcntlCalls = []uintptr{unix.SYS_FCNTL, unix.SYS_FCNTL64}
