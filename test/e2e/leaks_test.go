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

// inventory is what a test could leave behind on this machine, each thing as
// a line of text.
func inventory() map[string]bool {
	have := map[string]bool{}
	list := func(what, pattern string) {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			have[what+" "+n] = true
		}
	}
	list("network namespace", "/run/netns/te-*")
	list("folder", "/tmp/te-[0-9]*")
	list("resolver of a namespace", "/etc/netns/te-*")
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		have["interface "+i.Name] = true
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, "/te-") {
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
		if strings.Contains(p.environ(), "/tmp/te-") || strings.Contains(p.command(), "/tmp/te-") {
			have[fmt.Sprintf("process %d %s", pid, p.command())] = true
		}
	}
	return have
}

// leftSince gives what was not there before, once it has had time to go.
func leftSince(before map[string]bool) []string {
	var left []string
	for range 50 {
		// Go keeps the pipes that it copied between two connections with until
		// its collector has come by twice.
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
