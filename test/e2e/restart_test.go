package e2e

import (
	"strings"
	"testing"

	"github.com/toe-project/toe/card/status"
)

// TestRestartThatFailsGoesBack: a card that does not start with its new specification runs again
// with the old one, and apply says so.
func TestRestartThatFailsGoesBack(t *testing.T) {
	h := newHost(t)
	k := kinds[0]
	good := "machine: {kind: " + k.name + "}\nports: []\n"
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", good))
	bad := h.spec(t, "bad.yaml", "machine: {kind: "+k.name+"}\nports: [{name: wan, attach: 'bridge:nosuch'}]\n")
	r := h.run(t, 2*k.start, 1, "apply", "-f", bad, "--restart")
	for _, want := range []string{"nosuch", "card0 is up again with the specification before"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("apply says %q, want %q in it", r.err, want)
		}
	}
	if st := h.status(t, "card0"); st.State != status.Healthy || len(st.Ports) != 0 {
		t.Errorf("state %s %v, ports %v", st.State, st.Reasons, st.Ports)
	}
	h.run(t, quick, 0, "down")
}
