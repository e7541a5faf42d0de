package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterrupt presses Ctrl-C at several moments of a start. Nothing is left running.
func TestInterrupt(t *testing.T) {
	h := newHost(t)
	file := h.spec(t, "card.yaml", "machine: {kind: uml}\nports: []\n")
	for _, after := range []time.Duration{5, 20, 50, 100, 200, 300, 400} {
		h.interrupt(t, after*time.Millisecond, file)
	}
}

// TestInterruptFirstStart does the same while a first start makes its firmware. The packages are in
// the cache, and must be unpacked and packed.
func TestInterruptFirstStart(t *testing.T) {
	h := newHost(t)
	h.newCache(t)
	file := h.spec(t, "tcg.yaml", "machine: {kind: tcg}\nports: []\n")
	for _, after := range []time.Duration{50, 200, 500, 1000, 1500, 2000, 2500} {
		h.interrupt(t, after*time.Millisecond, file)
		if left := h.unfinished(t); len(left) > 0 {
			t.Errorf("after %d ms the cache has %s", after, strings.Join(left, ", "))
		}
	}
	// The next start makes what was interrupted. That machine is faster.
	k := kinds[0]
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "uml.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
}

func (h *host) interrupt(t *testing.T, after time.Duration, file string) {
	t.Run(after.String(), func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		cmd := h.command(ctx, "up", "-f", file)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status == 0 { // it was ready before
			h.run(t, 40*time.Second, 0, "down")
		} else if status != 128+int(syscall.SIGINT) && status != -1 {
			t.Errorf("exit status %d: %s", status, said.String())
		}
		t.Logf("it said: %s", strings.ReplaceAll(strings.TrimSpace(said.String()), "\n", "; "))
		h.nothingRuns(t)
	})
}

// newCache gives a host a cache of its own with packages and the User-Mode Linux kernel, but
// without firmware. So no network is needed.
func (h *host) newCache(t *testing.T) {
	t.Helper()
	h.cache = filepath.Join(h.dir, "cache")
	if err := copyCache(cache, h.cache, nil); err != nil {
		t.Fatal(err)
	}
}

// unfinished returns the unfinished files of a cache.
func (h *host) unfinished(t *testing.T) (left []string) {
	t.Helper()
	err := filepath.WalkDir(h.cache, func(path string, d os.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".") || strings.Contains(d.Name(), "tmp")) {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// nothingRuns checks that no process has this host's folders in its environment or on its command
// line.
func (h *host) nothingRuns(t *testing.T) {
	t.Helper()
	until(t, 3*time.Second, "the end of every process of "+h.dir, func() error {
		for pid, p := range processes() {
			if strings.Contains(p.environ()+p.command(), h.dir) {
				return fmt.Errorf("process %d (%s) runs", pid, p.command())
			}
		}
		return nil
	})
	if links := ip(t, "-n", h.netns, "-j", "link", "show"); strings.Contains(links, `"toe`) {
		t.Errorf("interfaces left: %s", links)
	}
}
