package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestProcessNames checks that ps distinguishes a card's processes.
func TestProcessNames(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newUserHost(t)
			h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\n"))
			var got []string
			for pid := range descendants(h.status(t, "card0").Supervisor.PID) {
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				got = append(got, strings.TrimSpace(string(comm)))
			}
			for _, want := range []string{"toe: run card0", "toe: card0", "toe: exec", "toe: pump exec", "toe: pump wan"} {
				if !slices.Contains(got, want) {
					t.Errorf("no process is called %q: %q", want, got)
				}
			}
		})
	}
}
