package link

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain is also the pump: a keeper starts this very program with PumpVerb.
// It fails the suite where descriptors or goroutines are left behind.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == PumpVerb {
		if err := Pump(3, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The runtime opens its poller at the first pipe and keeps it.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	code := m.Run()
	// A fuzzing run leaves the workers' pipes and a signal handler behind.
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code)
	}
	if code == 0 && !settles(fds, goroutines) {
		code = 1
	}
	os.Exit(code)
}

// settles waits for what ends in the background.
func settles(fds []string, goroutines int) bool {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now := descriptors()
		if len(now) <= len(fds) && runtime.NumGoroutine() <= goroutines {
			return true
		}
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "left behind: descriptors %d, before %d:\n%s\ngoroutines %d, before %d:\n%s\n",
				len(now), len(fds), strings.Join(now, "\n"), runtime.NumGoroutine(), goroutines, b[:runtime.Stack(b, true)])
			return false
		}
	}
}

// descriptors lists what is open.
func descriptors() (out []string) {
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, n := range names {
		if to, err := os.Readlink(n); err == nil { // not the listing's own
			out = append(out, n+" "+to)
		}
	}
	return out
}
