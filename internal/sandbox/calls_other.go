//go:build !arm

package sandbox

import "golang.org/x/sys/unix"

const (
	sysMmap      = unix.SYS_MMAP
	sysSetgroups = unix.SYS_SETGROUPS
	sysSetresuid = unix.SYS_SETRESUID
	sysSetresgid = unix.SYS_SETRESGID
)

var fcntlCalls = []uintptr{unix.SYS_FCNTL}
