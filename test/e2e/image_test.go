package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/card/status"
)

// TestImageOfARunningCardStays: builds prune the cache, but not the image that a running card was
// started from. Its next start needs it.
func TestImageOfARunningCardStays(t *testing.T) {
	h := newHost(t)
	h.newCache(t)
	k := kinds[0]
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
	before := h.status(t, "card0")
	agent := filepath.Join(filepath.Dir(toe), "toe-agent")
	for i := range 4 {
		program, err := os.ReadFile(agent)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(h.dir, "toe-agent")
		// The kernel ignores what follows the last segment.
		if err := os.WriteFile(other, fmt.Append(program, "build ", i), 0o755); err != nil {
			t.Fatal(err)
		}
		h.run(t, k.start, 0, "firmware", "build", "--offline", "--machine", k.name, "--agent", other)
	}
	h.run(t, k.start, 0, "reset", "card0")
	after := h.await(t, "card0", k.start, "a healthy card", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == 0 || st.Machine.PID == before.Machine.PID {
			return fmt.Errorf("machine %d, state %s %v", st.Machine.PID, st.State, st.Reasons)
		}
		return nil
	})
	if after.Firmware.Version != before.Firmware.Version {
		t.Errorf("firmware %s after a reset, was %s", after.Firmware.Version, before.Firmware.Version)
	}
	h.run(t, quick, 0, "down")
}
