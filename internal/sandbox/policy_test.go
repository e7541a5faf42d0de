//go:build amd64 || arm64

package sandbox

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// run evaluates a policy for one system call in Go's own BPF machine. That
// machine reads packets big endian, struct seccomp_data is in host order: the
// words are laid out so that each 32-bit load sees the right value.
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
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], uint32(nr))
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
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
	p := pumpPolicy(pid)
	for _, c := range []struct {
		name string
		arch uint32
		nr   uintptr
		args []uint64
		want Action
	}{
		{"readv", auditArch, unix.SYS_READV, nil, Allow},
		{"sendto, for calls over a socket", auditArch, unix.SYS_SENDTO, nil, Allow},
		{"foreign architecture", unix.AUDIT_ARCH_I386, unix.SYS_READV, nil, Kill},
		{"openat", auditArch, unix.SYS_OPENAT, nil, Kill},
		{"Go thread", auditArch, unix.SYS_CLONE, []uint64{goThread}, Allow},
		{"glibc thread", auditArch, unix.SYS_CLONE, []uint64{0x3d0f00}, Allow},
		{"fork", auditArch, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, Kill},
		{"vfork", auditArch, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_VFORK}, Kill},
		{"thread with a network namespace", auditArch, unix.SYS_CLONE, []uint64{goThread | unix.CLONE_NEWNET}, Kill},
		{"flags in the upper half", auditArch, unix.SYS_CLONE, []uint64{goThread | 1<<33}, Kill},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, Errno(unix.ENOSYS)},
		{"mmap rw", auditArch, unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, Allow},
		{"mmap none", auditArch, unix.SYS_MMAP, []uint64{0, 4096, 0}, Allow},
		{"mmap rwx", auditArch, unix.SYS_MMAP, []uint64{0, 4096, 7}, Kill},
		{"mprotect x", auditArch, unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}, Kill},
		{"own thread signalled", auditArch, unix.SYS_TGKILL, []uint64{pid, 1}, Allow},
		{"other process signalled", auditArch, unix.SYS_TGKILL, []uint64{pid + 1, 1}, Kill},
		{"fcntl get flags", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_GETFL}, Allow},
		{"fcntl get seals", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_GET_SEALS}, Allow},
		{"fcntl set owner", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_SETOWN}, Kill},
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
