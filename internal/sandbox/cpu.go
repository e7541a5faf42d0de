package sandbox

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namePrefix is the prefix of the names of cards' machines in ps.
const namePrefix = "toe: "

// pickCPU chooses the CPU for a program that alternates between processes of which only one runs at
// a time, as User-Mode Linux does at each system call of its own programs. The scheduler would wake
// the other one on an idle CPU each time, with cold caches; on one CPU the two alternate. Seen on
// two busy CPUs, three rounds by turns: 1.2, 2.2 and 3.3 times the connections a second, 0.8, 1.3
// and 2.3 times the bulk to the wire, and 0.97, 0.73 and 0.16 of the time for a system call.
//
// It is a CPU that the caller may use, with the fewest other cards. On a host with one CPU it
// returns -1.
func pickCPU() int {
	var ours unix.CPUSet
	if unix.SchedGetaffinity(0, &ours) != nil || ours.Count() < 2 {
		return -1
	}
	return fewest(&ours, cardsOn())
}

// fewest returns a CPU of the set with the lowest number in taken; any of several.
func fewest(set *unix.CPUSet, taken map[int]int) int {
	best, same := -1, 0
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		if !set.IsSet(cpu) {
			continue
		}
		left--
		switch {
		case best < 0 || taken[cpu] < taken[best]:
			best, same = cpu, 1
		case taken[cpu] == taken[best]:
			if same++; rand.IntN(same) == 0 {
				best = cpu
			}
		}
	}
	return best
}

// cardsOn counts the machines that are pinned to one CPU, by CPU.
func cardsOn() map[int]int {
	taken := map[int]int{}
	names, _ := filepath.Glob("/proc/[0-9]*/comm") // without /proc nothing is known
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), namePrefix) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		var set unix.CPUSet
		if err != nil || unix.SchedGetaffinity(pid, &set) != nil || set.Count() != 1 {
			continue
		}
		for cpu := 0; ; cpu++ {
			if set.IsSet(cpu) {
				taken[cpu]++
				break
			}
		}
	}
	return taken
}

// stayOn pins this thread, and the program it executes, to a CPU. A failure only makes the program
// slower.
func stayOn(cpu int) {
	if cpu < 0 {
		return
	}
	var set unix.CPUSet
	set.Set(cpu)
	_ = unix.SchedSetaffinity(0, &set)
}
