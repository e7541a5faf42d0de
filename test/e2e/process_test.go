package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is a process of this machine at some moment. Its start distinguishes it from a later one
// with the same pid.
type process struct {
	pid, parent int
	start       string
	zombie      bool
}

// processes returns all processes.
func processes() map[int]process {
	all := map[int]process{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all[pid] = p
		}
	}
	return all
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)).
func readProcess(pid int) (process, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	_, rest, ok := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return process{}, false
	}
	parent, _ := strconv.Atoi(fields[1])
	return process{pid: pid, parent: parent, start: fields[19], zombie: fields[0] == "Z"}, true
}

// descendants returns root and every process below it.
func descendants(root int) map[int]process {
	all := processes()
	out := map[int]process{}
	if p, ok := all[root]; ok {
		out[root] = p
	}
	for grew := true; grew; {
		grew = false
		for pid, p := range all {
			if _, have := out[pid]; have {
				continue
			}
			if _, below := out[p.parent]; below {
				out[pid], grew = p, true
			}
		}
	}
	return out
}

func (p process) alive() bool {
	now, ok := readProcess(p.pid)
	return ok && now.start == p.start && !now.zombie
}

func (p process) command() string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}

func (p process) environ() string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	return string(data)
}
