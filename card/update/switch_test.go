package update

import (
	"errors"
	"testing"

	"github.com/toe-project/toe/card/status"
)

// A card that went back to its old slot is healthy, and the installation has failed all the same.
func TestOutcome(t *testing.T) {
	at := func(state status.State, slot string, trial bool) (st status.Status) {
		st.State, st.Firmware.Slot, st.Firmware.Trial = state, slot, trial
		return st
	}
	for _, c := range []struct {
		name      string
		st        status.Status
		restarted bool
		done      bool
		reverted  bool
	}{
		{"the old life", at(status.Healthy, "A", false), false, false, false},
		{"starting", at(status.Starting, "B", true), true, false, false},
		{"healthy on trial", at(status.Healthy, "B", true), true, false, false},
		{"degraded on trial", at(status.Degraded, "B", true), true, false, false},
		{"good, with a port degraded as before", at(status.Degraded, "B", false), true, true, false},
		{"good", at(status.Healthy, "B", false), true, true, false},
		{"back on the old slot", at(status.Healthy, "A", false), true, true, true},
		{"rescue system", at(status.Degraded, "", false), true, true, true},
	} {
		done, err := outcome(c.st, "B", c.restarted)
		if done != c.done || errors.Is(err, ErrReverted) != c.reverted || (err != nil) != c.reverted {
			t.Errorf("%s: %v, %v", c.name, done, err)
		}
	}
	for _, state := range []status.State{status.Failed, status.Stopped} {
		if _, err := outcome(at(state, "B", true), "B", false); err == nil {
			t.Errorf("%s is no error", state)
		}
	}
}
