package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is the machine that was measured on.
type Host struct {
	Toe      string  `json:"toe,omitempty"` // the version measured
	CPUs     int     `json:"cpus"`
	Model    string  `json:"model"`
	Arch     string  `json:"arch"`
	Kernel   string  `json:"kernel"`
	Go       string  `json:"go"`
	MemoryGB float64 `json:"memory_gib"`
	// Load is the average over the minute before the run. Other programs make every figure worse.
	Load    float64 `json:"load_before"`
	Machine string  `json:"machine,omitempty"` // kind of the card
	Card    string  `json:"card_kernel,omitempty"`
}

func thisHost(toe string) Host {
	h := Host{Toe: toe, CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = string(bytes.TrimRight(u.Release[:], "\x00"))
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		h.MemoryGB = float64(si.Totalram) * float64(si.Unit) / (1 << 30)
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(b), &h.Load)
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			h.Model = strings.TrimSpace(v)
			break
		}
	}
	return h
}

// makeDir makes the folder of this run, in memory where possible.
func (r *run) makeDir() (remove func(), err error) {
	for _, parent := range []string{"/run", ""} {
		if r.dir, err = os.MkdirTemp(parent, "toe-bench-"); err == nil {
			dir := r.dir
			return func() { os.RemoveAll(dir) }, nil
		}
	}
	return nil, fmt.Errorf("folder for this run: %w", err)
}
