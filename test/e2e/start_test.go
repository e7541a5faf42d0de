package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lastWords are those of a first process that ends, and the kernel with it.
const lastWords = "this card will never be ready"

// TestFailedStart: the command that starts a card, and the status later, show the last lines of the
// console. Nothing is left running.
func TestFailedStart(t *testing.T) {
	h := newHost(t)
	h.newCache(t) // its firmware would disturb other tests
	h.toe = filepath.Join(h.dir, "toe")
	for from, to := range map[string]string{toe: h.toe, self: filepath.Join(h.dir, "toe-agent")} {
		program, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	k := kinds[0]
	r := h.run(t, k.start, 1, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
	for _, want := range []string{"card card0 did not start", "the end of its console (", lastWords, "Kernel panic", "supervisor.log"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("up does not say %q: %s", want, r.err)
		}
	}
	if out := h.run(t, quick, 0, "status").out; !strings.Contains(out, "failed") {
		t.Errorf("status after a start that failed: %s", out)
	}
	if out := h.run(t, quick, 1, "logs").out; !strings.Contains(out, lastWords) {
		t.Errorf("logs after a start that failed: %s", out)
	}
	h.nothingRuns(t)
}
