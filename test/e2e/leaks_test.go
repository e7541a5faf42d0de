package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// mine is the prefix of the names that this run makes: other runs may be in progress.
var mine = fmt.Sprintf("te-%d-", os.Getpid())

// inventory lists what a test could leave behind on this machine, one thing a line.
func inventory() map[string]bool {
	have := map[string]bool{}
	list := func(what, pattern string) {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			have[what+" "+n] = true
		}
	}
	list("network namespace", "/run/netns/"+mine+"*")
	list("folder", "/tmp/"+mine+"*")
	list("resolver of a namespace", "/etc/netns/"+mine+"*")
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		have["interface "+i.Name] = true
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, "/"+mine) {
			have["mount "+line] = true
		}
	}
	descriptors, _ := os.ReadDir("/proc/self/fd")
	for _, d := range descriptors {
		if to, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			have["descriptor "+d.Name()+" "+to] = true
		}
	}
	for pid, p := range processes() {
		if strings.Contains(p.environ(), "/tmp/"+mine) || strings.Contains(p.command(), "/tmp/"+mine) {
			have[fmt.Sprintf("process %d %s", pid, p.command())] = true
		}
	}
	return have
}

// leftSince returns what is new since before, after it has had time to go.
func leftSince(before map[string]bool) []string {
	var left []string
	for range 50 {
		// Go keeps the pipes of a copy between two connections for two garbage collections.
		runtime.GC()
		left = nil
		for what := range inventory() {
			if !before[what] {
				left = append(left, what)
			}
		}
		if len(left) == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return left
}
