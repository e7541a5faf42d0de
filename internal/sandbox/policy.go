package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// Action is what the kernel does with a system call: SECCOMP_RET_*, with an
// errno in the low 16 bits where the action takes one (seccomp(2)).
type Action uint32

const (
	Allow Action = unix.SECCOMP_RET_ALLOW
	Kill  Action = unix.SECCOMP_RET_KILL_PROCESS
)

// Errno fails the call with an error.
func Errno(e unix.Errno) Action {
	return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&unix.SECCOMP_RET_DATA)
}

// Cond is a test of one argument of a system call. Only the low 32 bits are
// looked at unless High is set: every argument tested here is an int, or a
// flag word that the kernel itself truncates to 32 bits.
type Cond struct {
	Arg    int    // 0 to 5
	Mask   uint32 // bits looked at; 0 means all
	Values []uint32
	// High additionally demands that the upper 32 bits are zero.
	High bool
}

// Rule is an Action for one system call whose arguments meet every Cond.
// A call that fails a Cond gets Else.
type Rule struct {
	Nr    uintptr
	Conds []Cond
	Do    Action
	Else  Action
}

// Policy is a seccomp filter in a readable form.
type Policy struct {
	Default Action // for system calls without a rule
	Foreign Action // for another architecture's calls, and the x32 ABI's
	Rules   []Rule
}

// Offsets in struct seccomp_data (linux/seccomp.h). Arguments are words of 64 bits in the host's
// byte order, also where registers have 32.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// halves returns the offsets of the lower and upper 32 bits of an argument.
func halves(arg int) (low, high uint32) {
	low = offArgs + 8*uint32(arg)
	high = low + 4
	if le.U16(1) != 1 {
		low, high = high, low
	}
	return low, high
}

// Assemble turns the policy into a classic BPF program: the architecture check, the x32 check on
// amd64, then one block a rule. Kernels since 5.11 remember which numbers are allowed whatever
// their arguments, so the length of the chain costs nothing at run time.
func (p Policy) Assemble() ([]bpf.RawInstruction, error) {
	if auditArch == 0 {
		return nil, fmt.Errorf("seccomp policy: there is none for %s: want amd64, arm64, arm, riscv64, ppc64le or s390x", runtime.GOARCH)
	}
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(p.Foreign)},
		bpf.LoadAbsolute{Off: offNr, Size: 4},
	}
	if x32Bit != 0 {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: x32Bit, SkipTrue: 1},
			bpf.RetConstant{Val: uint32(p.Foreign)})
	}
	seen := map[uintptr]bool{}
	for _, r := range p.Rules {
		if seen[r.Nr] {
			return nil, fmt.Errorf("seccomp policy: system call %d has two rules, only the first would count", r.Nr)
		}
		seen[r.Nr] = true
		block, err := r.block()
		if err != nil {
			return nil, err
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(r.Nr), SkipTrue: uint8(len(block))})
		prog = append(prog, block...)
	}
	prog = append(prog, bpf.RetConstant{Val: uint32(p.Default)})
	return bpf.Assemble(prog)
}

// block is the code after a number matched. It always returns, so it need not restore the number in
// the accumulator.
func (r Rule) block() ([]bpf.Instruction, error) {
	var out []bpf.Instruction
	for _, c := range r.Conds {
		if c.Arg < 0 || c.Arg > 5 || len(c.Values) == 0 || len(c.Values) > 100 {
			return nil, fmt.Errorf("seccomp policy: system call %d tests argument %d against %d values, want an argument of 0 to 5 and 1 to 100 values", r.Nr, c.Arg, len(c.Values))
		}
		low, high := halves(c.Arg)
		if c.High {
			out = append(out,
				bpf.LoadAbsolute{Off: high, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
				bpf.RetConstant{Val: uint32(r.Else)})
		}
		out = append(out, bpf.LoadAbsolute{Off: low, Size: 4})
		if c.Mask != 0 {
			out = append(out, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: c.Mask})
		}
		for i, v := range c.Values {
			// Skip the remaining values and the refusal.
			out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(c.Values) - i)})
		}
		out = append(out, bpf.RetConstant{Val: uint32(r.Else)})
	}
	out = append(out, bpf.RetConstant{Val: uint32(r.Do)})
	if len(out) > 255 {
		return nil, fmt.Errorf("seccomp policy: rule for system call %d takes %d instructions, at most 255 can be jumped over", r.Nr, len(out))
	}
	return out, nil
}
