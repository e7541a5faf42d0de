package supervisor

import (
	"slices"
	"testing"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/machine"
)

// reached reports whether a step has been begun.
func (w *scene) reached(step string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.seen, step)
}

// A reset breaks off a start that hangs, wherever it does; what comes after it
// is an ordinary start.
func TestResetOfAStartThatHangs(t *testing.T) {
	for _, step := range []string{"agent", "ping"} {
		t.Run(step, func(t *testing.T) {
			w := newScene()
			w.hang[step] = true
			parts := w.parts()
			parts.Limits.Start[machine.Fake] = time.Minute
			r := startParts(t, w, storetest.Card(t, ""), parts)
			r.await("the machine", func(st status.Status) bool { return len(w.machine.Instances()) == 1 && w.reached(step) })
			w.mu.Lock()
			w.hang[step] = false
			w.mu.Unlock()
			if err := client.New(r.c).Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			st := r.await("health", inState(status.Healthy))
			if n := len(w.machine.Instances()); n != 2 || st.Restarts != 1 {
				t.Errorf("%d machines, %d restarts; want two and one", n, st.Restarts)
			}
		})
	}
}

// After a reset the card has still never been ready: a start that then fails
// is a failed start.
func TestStartThatFailsAfterAReset(t *testing.T) {
	w := newScene()
	w.hang["agent"] = true
	parts := w.parts()
	parts.Limits.Start[machine.Fake] = time.Minute
	r := startParts(t, w, storetest.Card(t, ""), parts)
	r.await("the machine", func(status.Status) bool { return w.reached("agent") })
	w.mu.Lock()
	w.fault["start"] = errFault
	w.mu.Unlock()
	if err := client.New(r.c).Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err == nil {
		t.Error("ended without an error")
	}
	r.checkGone(t, status.Failed, errFault.Error())
}

// A reset does not wait for the pause before the next try.
func TestResetShortensAPause(t *testing.T) {
	w := newScene()
	parts := w.parts()
	parts.Limits.Backoff = []time.Duration{time.Hour}
	r := startParts(t, w, storetest.Card(t, ""), parts)
	r.await("health", inState(status.Healthy))
	w.machine.Instances()[0].End(machine.Exit{Cause: machine.Crashed})
	r.await("a pause", func(st status.Status) bool { return len(st.Reasons) > 0 && st.State != status.Healthy })
	if err := client.New(r.c).Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("health", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == 1 })
}
