//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// run evaluates a policy for one system call in Go's own BPF machine. struct seccomp_data is in the
// host's byte order and that machine reads packets in big endian, so each word is turned.
func run(t *testing.T, p Policy, arch uint32, nr uintptr, args ...uint64) Action {
	t.Helper()
	raw, err := p.Assemble()
	if err != nil {
		t.Fatal(err)
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("program does not disassemble")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	data = binary.NativeEndian.AppendUint32(data, uint32(nr))
	data = binary.NativeEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...) // instruction_pointer
	for i := range 6 {
		arg := uint64(0)
		if i < len(args) {
			arg = args[i]
		}
		data = binary.NativeEndian.AppendUint64(data, arg)
	}
	for i := 0; i < len(data); i += 4 {
		binary.BigEndian.PutUint32(data[i:], binary.NativeEndian.Uint32(data[i:]))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return Action(uint32(got))
}

func TestPumpPolicy(t *testing.T) {
	const pid = 4242
	const goThread = 0x50f00 // what the Go runtime's newosproc asks for
	p := pumpPolicy(pid, nil)
	// The kernel's clone(2) has the flags first, but on s390x the stack.
	clone := func(flags uint64) []uint64 {
		if runtime.GOARCH == "s390x" {
			return []uint64{0x7fff0000, flags}
		}
		return []uint64{flags, 0x7fff0000}
	}
	// On s390x the one argument of mmap(2) is an address.
	exec := Kill
	if runtime.GOARCH == "s390x" {
		exec = Allow
	}
	for _, c := range []struct {
		name string
		arch uint32
		nr   uintptr
		args []uint64
		want Action
	}{
		{"readv", auditArch, unix.SYS_READV, nil, Allow},
		{"sendto, for calls over a socket", auditArch, unix.SYS_SENDTO, nil, Allow},
		{"foreign architecture", unix.AUDIT_ARCH_SPARC, unix.SYS_READV, nil, Kill},
		{"openat", auditArch, unix.SYS_OPENAT, nil, Kill},
		{"Go thread", auditArch, unix.SYS_CLONE, clone(goThread), Allow},
		{"glibc thread", auditArch, unix.SYS_CLONE, clone(0x3d0f00), Allow},
		{"fork", auditArch, unix.SYS_CLONE, clone(uint64(unix.SIGCHLD)), Kill},
		{"vfork", auditArch, unix.SYS_CLONE, clone(unix.CLONE_VM | unix.CLONE_VFORK), Kill},
		{"thread with a network namespace", auditArch, unix.SYS_CLONE, clone(goThread | unix.CLONE_NEWNET), Kill},
		{"flags in the upper half", auditArch, unix.SYS_CLONE, clone(goThread | 1<<33), Kill},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, Errno(unix.ENOSYS)},
		{"mmap rw", auditArch, sysMmap, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, Allow},
		{"mmap none", auditArch, sysMmap, []uint64{0, 4096, 0}, Allow},
		{"mmap rwx", auditArch, sysMmap, []uint64{0, 4096, 7}, exec},
		{"mprotect x", auditArch, unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, Kill},
		{"own thread signalled", auditArch, unix.SYS_TGKILL, []uint64{pid, 1}, Allow},
		{"other process signalled", auditArch, unix.SYS_TGKILL, []uint64{pid + 1, 1}, Kill},
		{"fcntl get flags", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_GETFL}, Allow},
		{"fcntl get seals", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_GET_SEALS}, Allow},
		{"fcntl set owner", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_SETOWN}, Kill},
		{"fcntl owner in the upper half only", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_SETOWN<<32 | unix.F_GETFL}, Allow},
		{"prctl name mapping", auditArch, unix.SYS_PRCTL, []uint64{prSetVMA}, Allow},
		{"prctl dumpable", auditArch, unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE}, Kill},
	} {
		if got := run(t, p, c.arch, c.nr, c.args...); got != c.want {
			t.Errorf("%s: action %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestPolicyMistakes(t *testing.T) {
	many := make([]uint32, 101)
	for name, rules := range map[string][]Rule{
		"two rules for one call": {{Nr: 1, Do: Allow}, {Nr: 1, Do: Kill}},
		"no values":              {{Nr: 1, Conds: []Cond{{Arg: 0}}}},
		"argument out of range":  {{Nr: 1, Conds: []Cond{{Arg: 6, Values: []uint32{1}}}}},
		"too many values":        {{Nr: 1, Conds: []Cond{{Arg: 0, Values: many}}}},
		"block too long": {{Nr: 1, Conds: []Cond{
			{Arg: 0, Values: many[:100]}, {Arg: 1, Values: many[:100]}, {Arg: 2, Values: many[:100]}}}},
	} {
		if _, err := (Policy{Rules: rules}).Assemble(); err == nil {
			t.Errorf("%s: assembled without an error", name)
		}
	}
}
