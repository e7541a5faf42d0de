package agent

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/agent/upgrade"
)

// The worker's last line is the result; without one the upgrade failed, and a canceled one ends at once,
// with all that the worker started.
func TestUpgradeWorker(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv(inNamespace) == "" {
		t.Skip("needs root and namespaces: the worker is in some of its own")
	}
	for _, c := range []struct {
		name, script, err string
		changes, steps    []string
	}{
		{"good", `read -r job; echo '{"percent":3,"text":"copying"}'; echo '{"percent":100,"done":true,"changes":["a 1 -> 2"]}'`, "",
			[]string{"a 1 -> 2"}, []string{"copying"}},
		{"failed", `read -r job; echo '{"percent":3,"text":"copying"}'; echo '{"percent":3,"error":"no room"}'; exit 1`, "no room",
			nil, []string{"copying"}},
		{"killed", `read -r job; echo '{"percent":3,"text":"copying"}'; echo sorry >&2; kill -9 $$; exit 1`, "ended early", nil, []string{"copying"}},
		{"nonsense", `echo hello; printf '{"percent":100,"done":true}'`, "ended early", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &upgradePart{env: &env{procs: newProcs()}, worker: []string{"/bin/sh", "-c", c.script}}
			var steps []string
			changes, err := p.run(t.Context(), upgrade.Job{}, func(_ int, text string) { steps = append(steps, text) })
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if !slices.Equal(changes, c.changes) || !slices.Equal(steps, c.steps) {
				t.Errorf("changes %q, steps %q", changes, steps)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := &upgradePart{env: &env{procs: newProcs()}, worker: []string{"/bin/sh", "-c", `echo '{"text":"x"}'; sleep 987 & wait`}}
	began := time.Now()
	if _, err := p.run(ctx, upgrade.Job{}, func(int, string) { cancel() }); err == nil || time.Since(began) > time.Minute {
		t.Errorf("canceled: %v after %s", err, time.Since(began))
	}
}
