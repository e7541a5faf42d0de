package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterrupt presses Ctrl-C at several moments of a start: nothing is left
// running, whenever it comes.
func TestInterrupt(t *testing.T) {
	h := newHost(t)
	file := h.spec(t, "card.yaml", "machine: {kind: uml}\nports: []\n")
	for _, after := range []time.Duration{5, 20, 50, 100, 200, 300, 400} {
		after *= time.Millisecond
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
			h.nothingRuns(t)
		})
	}
}

// nothingRuns looks for processes with this host's folders in their
// environment or on their command line.
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
