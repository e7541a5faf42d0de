package supervisor

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/machine"
)

func (w *scene) times(step string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.seen {
		if s == step {
			n++
		}
	}
	return n
}

func (w *scene) steps() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

func (w *scene) isOpen(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open[name]
}

func (w *scene) fails(step string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault[step] = err
}

// TestEndOfAnEndpointEndsItsConnections checks that an endpoint's connections end with each end of
// the machine and at down. A router's connections survive both and are not touched.
func TestEndOfAnEndpointEndsItsConnections(t *testing.T) {
	for mode, want := range map[string]bool{"endpoint": true, "router": false} {
		w := newScene()
		r := startCard(t, w, storetest.Card(t, "offload: {mode: "+mode+"}\n"))
		r.await("health", inState(status.Healthy))
		if n := w.times("abort exec"); n != 0 {
			t.Errorf("%s: connections ended while the card ran", mode)
		}
		w.machine.Instances()[0].End(machine.Exit{Cause: machine.Crashed})
		r.await("the second life", func(st status.Status) bool { return st.Restarts == 1 && st.State == status.Healthy })
		if n := w.times("lock exec " + strconv.FormatBool(want)); n != 1 {
			t.Errorf("%s: the link's routes made to fit %d times in two lives of the card, want once", mode, n)
		}
		if n := w.times("abort exec"); (n == 1) != want || n > 1 {
			t.Errorf("%s: connections ended %d times after the machine's end", mode, n)
		}
		r.stop()
		_ = r.wait()
		if n := w.times("abort exec"); (n == 2) != want || n > 2 {
			t.Errorf("%s: connections ended %d times in all", mode, n)
		}
		r.checkGone(t, status.Stopped, "")
	}
}

// TestHostFitsTheMode: the path MTU follows the mode, and the way back is
// there for as long as something on the host is published.
func TestHostFitsTheMode(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, "offload: {mode: router}\n"))
	r.await("health", inState(status.Healthy))
	if w.times("lock exec false") != 1 || w.times("lock exec true") != 0 {
		t.Errorf("a router: %v", w.steps())
	}
	apply := func(text string) {
		t.Helper()
		spec, err := spec.Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.New(r.c).Apply(context.Background(), spec); err != nil {
			t.Fatal(err)
		}
	}
	apply("offload: {mode: endpoint}\npublish: [{port: 80, in: exec}]\n")
	if w.times("lock exec true") != 1 || w.times("return") != 0 {
		t.Errorf("an endpoint that publishes nothing on the host: %v", w.steps())
	}
	if store.Privileged() {
		apply("offload: {mode: endpoint}\npublish: [{port: 80}]\n")
		if w.isOpen("return") != 1 {
			t.Errorf("no way back: %v", w.steps())
		}
		st := r.await("status", inState(status.Healthy))
		if p := st.Offload.Publish; len(p) != 1 || len(p[0].To) != 2 || !strings.HasSuffix(p[0].To[0], ":80") || st.Offload.Mode != "endpoint" {
			t.Errorf("status: %+v", st.Offload)
		}
		apply("offload: {mode: endpoint}\n")
		if w.isOpen("return") != 0 {
			t.Errorf("the way back is left: %v", w.steps())
		}
		w.fails("return", errFault)
		apply("offload: {mode: endpoint}\npublish: [{port: 80}]\n")
		st = r.await("trouble", inState(status.Degraded))
		if !slices.Contains(st.Reasons, "way back of published services: "+errFault.Error()) {
			t.Errorf("reasons: %v", st.Reasons)
		}
		w.fails("return", nil)
		apply("offload: {mode: endpoint}\npublish: [{port: 81}]\n")
		r.await("health again", inState(status.Healthy))
	}
	r.stop()
	_ = r.wait()
	r.checkGone(t, status.Stopped, "")
}
