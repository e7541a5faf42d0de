package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/toe-project/toe/machine"
)

// measureStart alternates: the bare machine to its first user process, then the card until it is
// healthy. The last card is then measured while it idles.
func measureStart(ctx context.Context, r *run) (err error) {
	// The first start may build firmware, and resolves the kind.
	c, _, err := r.up(ctx, cardName, r.Machine)
	if err != nil {
		return err
	}
	defer func() {
		if c != nil {
			err = errors.Join(err, c.down())
		}
	}()
	r.saw(c)
	kind := machine.Kind(c.status.Machine.Kind)
	stage := r.Progress.Stage("toe up, beside the bare machine", int64(r.Rounds))
	defer func() { stage.Fail(err) }()
	bareOK := true
	var command, own, bare []float64
	for range r.Rounds {
		if err := c.down(); err != nil {
			return err
		}
		c = nil
		if bareOK {
			v, err := r.bareStart(ctx, kind)
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.skip(string(kind)+"/bare-start", err.Error())
				bareOK = false
			} else {
				bare = append(bare, v.Seconds())
			}
		}
		took := time.Duration(0)
		if c, took, err = r.up(ctx, cardName, r.Machine); err != nil {
			return err
		}
		command, own = append(command, took.Seconds()), append(own, c.status.ReadySeconds)
		stage.Add(1)
	}
	r.reportStart(kind, command, own, bare)
	r.measureMemory(kind, c)
	if err := r.measureIdle(ctx, string(kind)+"/idle/", c); err != nil {
		return err
	}
	if err := c.down(); err != nil {
		return err
	}
	c = nil
	return r.measureDefault(ctx, kind)
}

func (r *run) reportStart(kind machine.Kind, command, own, bare []float64) {
	name := string(kind) + "/up/"
	r.add(name+"ready", "s", command).Note = "from the command to its end"
	r.add(name+"supervisor-ready", "s", own).Note = "as the supervisor counts"
	if len(bare) > 0 {
		r.add(name+"bare", "s", bare).Note = "the same kernel to its first user process, without network"
		r.add(name+"ready"+versus+"bare", "s", command).lower(bare, "the bare machine to its first user process")
	}
}

// measureMemory reads the memory of the card's processes, in MiB: private, and its share of what is
// shared.
func (r *run) measureMemory(kind machine.Kind, c *testCard) {
	sum := 0.0
	for _, p := range []struct {
		name string
		pids []int
	}{
		{"pump", []int{c.status.Pump.PID}}, {"supervisor", []int{c.status.Supervisor.PID}},
		{"machine", family(c.status.Machine.PID)},
	} {
		mib, err := memory(p.pids)
		if err != nil {
			r.skip(fmt.Sprintf("%s/memory/%s", kind, p.name), err.Error())
			continue
		}
		sum += mib
		r.add(fmt.Sprintf("%s/memory/%s", kind, p.name), "MiB", []float64{mib})
	}
	r.add(string(kind)+"/memory/all", "MiB", []float64{sum})
}

// memory is the proportional set size of processes in MiB.
func memory(pids []int) (mib float64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a program on the card has ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		kib, err := pss(string(b))
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		mib += kib / 1024
	}
	return mib, nil
}

func pss(rollup string) (kib float64, err error) {
	for line := range strings.Lines(rollup) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		}
	}
	return 0, errors.New("smaps_rollup without a line Pss")
}

// family returns a process and its descendants.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for _, word := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}

// measureIdle measures the CPU time of the processes of an idle card.
func (r *run) measureIdle(ctx context.Context, name string, c *testCard) error {
	stage := r.Progress.Stage("a card that has nothing to do", int64(r.Rounds))
	defer stage.Done("")
	own, machines := total(), total()
	of := family(c.status.Machine.PID)
	for _, pid := range of {
		machines = total(machines, process(pid))
	}
	for _, pid := range family(c.status.Supervisor.PID) {
		if !slices.Contains(of, pid) {
			own = total(own, process(pid))
		}
	}
	var ownRounds, machineRounds []float64
	for range r.Rounds {
		before, err := own()
		if err != nil {
			return err
		}
		machineBefore, err := machines()
		if err != nil {
			return err
		}
		start := time.Now()
		select {
		case <-time.After(max(r.Length, 2*time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
		after, err := own()
		if err != nil {
			return err
		}
		machineAfter, err := machines()
		if err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		ownRounds = append(ownRounds, (after-before).Seconds()*1e3/seconds)
		machineRounds = append(machineRounds, (machineAfter-machineBefore).Seconds()*1e3/seconds)
		stage.Add(1)
	}
	r.add(name+"toe", "ms/s", ownRounds).Note = "the supervisor and all that it started but the machine: pumps, passt"
	r.add(name+"machine", "ms/s", machineRounds).Note = "the machine's own processes, the card's kernel included"
	return nil
}
