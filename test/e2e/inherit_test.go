package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLeakedDescriptor starts a card from a shell that left a descriptor open. No process of the
// card has it.
func TestLeakedDescriptor(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newUserHost(t)
			leak, err := os.Create(filepath.Join(h.dir, "leak"))
			if err != nil {
				t.Fatal(err)
			}
			defer leak.Close()
			ctx, cancel := context.WithTimeout(context.Background(), k.start)
			defer cancel()
			up := h.command(ctx, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\n"))
			for range 20 { // so that some have numbers past those that toe passes on
				up.ExtraFiles = append(up.ExtraFiles, leak)
			}
			// ip-netns(8) and the other programs before toe pass them on.
			if out, err := up.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			until(t, 5*time.Second, "a port with a peer", func() error { // passt starts last
				if st := h.status(t, "card0"); len(st.Ports[0].Addresses) == 0 {
					return fmt.Errorf("port %s", st.Ports[0].State)
				}
				return nil
			})
			all := descendants(h.status(t, "card0").Supervisor.PID)
			if len(all) < 5 {
				t.Errorf("%d processes, want supervisor, holder, pumps, machine", len(all))
			}
			for pid, p := range all {
				for _, to := range descriptorsOf(t, pid) {
					if to == leak.Name() {
						t.Errorf("process %d (%s) has the descriptor", pid, p.command())
						break
					}
				}
			}
		})
	}
}

// descriptorsOf returns the targets of a process's descriptors.
func descriptorsOf(t *testing.T, pid int) (to []string) {
	t.Helper()
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if p, there := readProcess(pid); len(names) == 0 && there && !p.zombie {
		t.Errorf("process %d: no descriptors to be seen", pid)
	}
	for _, n := range names {
		if target, err := os.Readlink(n); err == nil {
			to = append(to, target)
		}
	}
	return to
}
