package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// install puts the filter on this thread, or with SECCOMP_FILTER_FLAG_TSYNC
// on every thread of this process and those to come. It needs no_new_privs or CAP_SYS_ADMIN. With TSYNC all
// threads take no_new_privs over too (seccomp(2)).
func install(p Policy, flags uintptr) error {
	raw, err := p.Assemble()
	if err != nil {
		return err
	}
	filter := sockFilter(raw)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("seccomp: setting a filter of %d instructions: %w (needs Linux 4.14 or later with CONFIG_SECCOMP_FILTER)", len(filter), errno)
	}
	if tid != 0 {
		return fmt.Errorf("seccomp: thread %d already has a filter of its own", tid)
	}
	return nil
}

func sockFilter(raw []bpf.RawInstruction) []unix.SockFilter {
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out
}
