// Package doctor checks a host before a card is started on it: one line per
// check, and the command that fixes what is wrong.
package doctor

import (
	"context"
	"sync"
	"time"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/machine"
)

// State is the outcome of a check.
type State string

// The outcomes.
const (
	Pass State = "pass"
	Warn State = "warn" // works, but less well
	Fail State = "fail" // cards do not start, or something is left broken
	Skip State = "skip" // does not apply here
)

// Result is one line.
type Result struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to type
}

// Host is what is checked.
type Host struct {
	Dirs     store.Dirs
	Machines []machine.Machine
}

// limit bounds each check.
const limit = 25 * time.Second

type check struct {
	name string
	run  func(ctx context.Context, h Host) Result
}

// checks in the order they are shown.
func checks() []check {
	return []check{
		{"privileges", checkPrivileges},
		{"kvm", checkKVM},
		{"uml", checkUML},
		{"qemu", checkQEMU},
		{"architectures", checkArchitectures},
		{"passt", checkPasst},
		{"tun", checkTUN},
		{"user namespaces", checkUserns},
		{"firewall", checkFirewall},
		{"memory", checkMemory},
		{"disk", checkDisk},
		{"firmware", checkFirmware},
		{"mirror", checkMirror},
		{"leftovers", checkLeftovers},
	}
}

// Run makes all checks, several at a time, and adds the one that sums up
// whether any machine works.
func Run(ctx context.Context, h Host) []Result {
	list := checks()
	out := make([]Result, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			out[i] = c.run(ctx, h)
			out[i].Name = c.name
		}()
	}
	wg.Wait()
	return append(out, judgeMachines(out))
}

// Failed reports whether any check did.
func Failed(results []Result) bool {
	for _, r := range results {
		if r.State == Fail {
			return true
		}
	}
	return false
}

// judgeMachines reports which machine a card gets.
func judgeMachines(results []Result) Result {
	r := Result{
		Name: "machine", State: Fail, Detail: "no kind of machine works here",
		Fix: "sudo apt install qemu-system-x86",
	}
	if p := find(results, "privileges"); p.State == Fail {
		r.Fix = p.Fix
	}
	for _, kind := range []struct{ check, says string }{
		{"kvm", "kvm: cards run with hardware virtualization"},
		{"uml", "uml: cards run at native speed"},
	} {
		if find(results, kind.check).State == Pass {
			return Result{Name: "machine", State: Pass, Detail: kind.says}
		}
	}
	if s := find(results, "qemu").State; s == Pass || s == Warn {
		return Result{
			Name: "machine", State: Warn, Detail: "tcg: cards run under emulation, which is slow",
			Fix: "toe firmware build --machine uml",
		}
	}
	return r
}

// find is the result of a check, a skipped one where it was not made.
func find(results []Result, name string) Result {
	for _, r := range results {
		if r.Name == name {
			return r
		}
	}
	return Result{State: Skip}
}
