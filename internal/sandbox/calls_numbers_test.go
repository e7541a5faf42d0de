//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// recorded has the numbers of calls as the kernel's tables have them (arch/*/syscall.tbl and
// asm-generic/unistd.h), written down by hand: x/sys, the source of the policy's numbers, is
// generated.
var recorded = map[string]struct {
	arch                                                         uint32
	mmap, mprotect, clone, readv, writev, recvmsg, sendto, futex uintptr
	multiplexer                                                  []uintptr // calls that make others
}{
	"amd64":   {0xc000003e, 9, 10, 56, 19, 20, 47, 44, 202, nil},
	"arm64":   {0xc00000b7, 222, 226, 220, 65, 66, 212, 206, 98, nil},
	"arm":     {0x40000028, 192, 125, 120, 145, 146, 297, 290, 422, []uintptr{90, 102, 113, 117}},
	"riscv64": {0xc00000f3, 222, 226, 220, 65, 66, 212, 206, 98, nil},
	"ppc64le": {0xc0000015, 90, 125, 120, 145, 146, 342, 335, 221, []uintptr{102, 117, 363}},
	"s390x":   {0x80000016, 90, 125, 120, 145, 146, 372, 369, 238, []uintptr{102, 117}},
}

// TestNumbers: the filter of this architecture decides by the numbers that its kernel uses.
func TestNumbers(t *testing.T) {
	n, ok := recorded[runtime.GOARCH]
	if !ok {
		t.Fatalf("no numbers are recorded for %s", runtime.GOARCH)
	}
	p := pumpPolicy(1, &DiskFile{})
	for name, nr := range map[string]uintptr{"readv": n.readv, "writev": n.writev, "recvmsg": n.recvmsg, "sendto": n.sendto,
		"futex": n.futex, "mmap": n.mmap, "mprotect": n.mprotect} {
		if got := run(t, p, n.arch, nr, 0, 4096, unix.PROT_READ); got != Allow {
			t.Errorf("%s, call %d: action %#x, want Allow", name, nr, got)
		}
	}
	if got := run(t, p, n.arch, n.mprotect, 0, 4096, unix.PROT_EXEC); got != Kill {
		t.Errorf("mprotect, call %d, of executable memory: action %#x, want Kill", n.mprotect, got)
	}
	if got := run(t, p, n.arch, n.clone, uint64(unix.SIGCHLD), uint64(unix.SIGCHLD)); got != Kill {
		t.Errorf("clone, call %d, of a process: action %#x, want Kill", n.clone, got)
	}
	for _, nr := range n.multiplexer {
		if got := run(t, p, n.arch, nr, 1, 1, 1); got != Kill {
			t.Errorf("call %d, which makes others: action %#x, want Kill", nr, got)
		}
	}
}
