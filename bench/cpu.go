package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Several threads work for a card on its host: the program that sends and receives, the pump or
// QEMU's device emulation, and the kernel on behalf of them. The threads that run the card's own
// CPU do not count. docs/benchmarks.md explains why this is complete.

// spent is CPU time used so far.
type spent func() (time.Duration, error)

// total adds up.
func total(who ...spent) spent {
	return func() (sum time.Duration, err error) {
		for _, s := range who {
			d, err := s()
			if err != nil {
				return 0, err
			}
			sum += d
		}
		return sum, nil
	}
}

// process is the CPU time of all threads of a process.
func process(pid int) spent {
	return func() (time.Duration, error) { return cpuTime(pid) }
}

// threadSpent is the CPU time of a thread, from /proc/PID/task/TID/schedstat, in nanoseconds where
// stat counts ticks. The last slice of a running thread, of some milliseconds, is missing.
func threadSpent(pid, tid int) (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, tid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return parseSchedstat(path, string(b))
}

func parseSchedstat(path, text string) (time.Duration, error) {
	first, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: %.40q, want nanoseconds first", path, text)
	}
	return time.Duration(n), nil
}

// threads returns the threads of a process with the CPU time of each.
func threads(pid int) (map[int]time.Duration, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	all := map[int]time.Duration{}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if used, err := threadSpent(pid, tid); err == nil { // otherwise it ended meanwhile
			all[tid] = used
		}
	}
	return all, nil
}

// vcpuOf finds the thread that runs the card's CPU in a QEMU that has booted: not its first thread,
// and the one with by far the most CPU time.
func vcpuOf(pid int, used map[int]time.Duration) (int, error) {
	best, second := 0, time.Duration(0)
	for tid, d := range used {
		switch {
		case tid == pid:
		case best == 0 || d > used[best]:
			if best != 0 {
				second = max(second, used[best])
			}
			best = tid
		default:
			second = max(second, d)
		}
	}
	if best == 0 || used[best] < 4*second || used[best] < 100*time.Millisecond {
		return 0, fmt.Errorf("process %d: none of the threads %v is known to run the card's CPU", pid, used)
	}
	return best, nil
}

// emulation is the CPU time of a QEMU of one CPU without that of the CPU's thread: the main loop
// and its helpers. The process must have booted its card.
func emulation(pid int) (spent, error) {
	used, err := threads(pid)
	if err != nil {
		return nil, err
	}
	vcpu, err := vcpuOf(pid, used)
	if err != nil {
		return nil, err
	}
	return func() (time.Duration, error) {
		used, err := threads(pid)
		if err != nil {
			return 0, err
		}
		sum := time.Duration(0)
		for tid, d := range used {
			if tid != vcpu {
				sum += d
			}
		}
		return sum, nil
	}, nil
}

// softirqs is the kernel's work that is accounted to no other thread: that of ksoftirqd, and all of
// it where the kernel accounts the time of interrupts separately.
func softirqs() spent {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), "ksoftirqd/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	apart := interruptsApart()
	return func() (sum time.Duration, err error) {
		for _, pid := range pids {
			if d, err := threadSpent(pid, pid); err == nil {
				sum += d
			}
		}
		if apart {
			b, err := os.ReadFile("/proc/stat")
			if err != nil {
				return 0, err
			}
			sum += interruptTime(string(b))
		}
		return sum, nil
	}
}

// interruptTime reads irq and softirq of all CPUs from /proc/stat.
func interruptTime(stat string) time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0
	}
	irq, _ := strconv.ParseInt(f[6], 10, 64)
	soft, _ := strconv.ParseInt(f[7], 10, 64)
	return time.Duration(irq+soft) * tick
}
