package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card"
)

// TestUserPort is a card whose port is a user's program's: what it sends, the
// host's own network sends.
func TestUserPort(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newUserHost(t)
			h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\n"))
			st := h.status(t, "card0")
			if st.State != card.Healthy {
				t.Fatalf("status: %s %v", st.State, st.Reasons)
			}
			for i := range 5 {
				t.Run(fmt.Sprintf("kill the port's pump %d", i+1), h.killUserPump)
			}
		})
	}
}

// inside is the path of the namespace that toe exec runs programs in.
func (h *host) inside(t *testing.T) string {
	t.Helper()
	for pid, p := range descendants(h.status(t, "card0").Supervisor.PID) {
		if strings.Contains(p.command(), card.HolderVerb) {
			return fmt.Sprintf("/proc/%d/ns/net", pid)
		}
	}
	t.Fatal("no process keeps the namespace of toe exec")
	return ""
}

// killUserPump kills the pump of a user port under traffic. The stream to passt
// goes on where it was, so connections survive.
func (h *host) killUserPump(t *testing.T) {
	before := h.status(t, "card0")
	within := h.inside(t)
	s := startStream(t, within)
	p := startProbeTo(t, within, outsideAddr) // what its datagrams come back from
	s.moves(t, 10*time.Second)
	p.gap.Store(0)
	kill(t, before.Ports[0].PumpPID)
	p.answers(t, pumpGap)
	stalled := s.moves(t, 5*time.Second)
	gap := time.Duration(p.gap.Load())
	t.Logf("no packet for %s; TCP goes on after %s", gap.Round(time.Millisecond), stalled.Round(time.Millisecond))
	if gap > pumpGap {
		t.Errorf("no packet for %s; at most %s", gap, pumpGap)
	}
	after := h.status(t, "card0")
	if after.Ports[0].PumpPID == before.Ports[0].PumpPID || after.Machine.PID != before.Machine.PID {
		t.Errorf("pump %d, machine %d before; %d and %d after", before.Ports[0].PumpPID, before.Machine.PID, after.Ports[0].PumpPID, after.Machine.PID)
	}
}
