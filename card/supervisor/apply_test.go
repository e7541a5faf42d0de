package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/control"
)

// resolver is a card.yaml that a running card can take.
func resolver(t *testing.T, address string) spec.Spec {
	t.Helper()
	s, err := spec.Parse("f", []byte("dns: {servers: ["+address+"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inForce is the configuration that the card was told last.
func (a *fakeAgent) inForce() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.configs) == 0 {
		return ""
	}
	return string(a.configs[len(a.configs)-1])
}

// applied is how many configurations the card was told.
func (a *fakeAgent) applied() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.configs)
}

// The card has taken the configuration, and its answer is lost: the change is
// made all the same, on the card and in its file.
func TestApplyWhoseAnswerIsLost(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	w.agent.mu.Lock()
	w.agent.lost = context.DeadlineExceeded
	w.agent.mu.Unlock()
	if _, err := client.New(r.c).Apply(t.Context(), resolver(t, "192.0.2.53")); err != nil {
		t.Errorf("apply: %v", err)
	}
	now, err := r.c.Dirs.Open(r.c.Name)
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Spec.DNS.Servers) != 1 || !strings.Contains(w.agent.inForce(), "192.0.2.53") {
		t.Errorf("card.yaml has resolvers %v, the card %s", now.Spec.DNS.Servers, w.agent.inForce())
	}
}

// The file cannot be written, on a full disk say: the card goes back to what it had.
func TestApplyThatCannotBeSaved(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	if err := os.Remove(r.c.Paths.Spec()); err != nil {
		t.Fatal(err)
	}
	// A rename to a directory that is not empty fails.
	if err := os.MkdirAll(filepath.Join(r.c.Paths.Spec(), "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(r.c).Apply(t.Context(), resolver(t, "192.0.2.53")); err == nil {
		t.Error("apply did not fail")
	}
	if in := w.agent.inForce(); strings.Contains(in, "192.0.2.53") {
		t.Errorf("the card has %s", in)
	}
}

// A card with another configuration than its file, for whatever reason, gets
// that of its file; one that refuses it is degraded.
func TestCardWithAnotherConfiguration(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	other := func() {
		w.agent.mu.Lock()
		defer w.agent.mu.Unlock()
		w.agent.digest = control.Digest([]byte("another"))
	}
	other()
	st := r.await("word of it", func(st status.Status) bool { return strings.Contains(told(st), "applied again") })
	if w.agent.inForce() == "" || st.State != status.Healthy {
		t.Errorf("state %s, the card has %q", st.State, w.agent.inForce())
	}
	refuse := func(err error) {
		w.agent.mu.Lock()
		defer w.agent.mu.Unlock()
		w.agent.refuse = err
	}
	refuse(errFault)
	other()
	st = r.await("degraded", inState(status.Degraded))
	if text := strings.Join(st.Reasons, " "); !strings.Contains(text, "configuration: ") || !strings.Contains(text, errFault.Error()) {
		t.Errorf("reasons %q", st.Reasons)
	}
	refuse(nil)
	r.await("health", func(st status.Status) bool { return st.State == status.Healthy && len(st.Reasons) == 0 })
}

// The client is gone once the card has the configuration: the host's side follows it
// all the same.
func TestApplyWhoseClientIsGone(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	ctx, cancel := context.WithCancel(t.Context())
	w.agent.mu.Lock()
	w.agent.apply = cancel
	w.agent.mu.Unlock()
	if _, err := r.s.apply(ctx, resolver(t, "192.0.2.53"), false); err != nil {
		t.Fatal(err)
	}
	if st := r.s.Status(); st.State != status.Healthy {
		t.Errorf("state %s, %q", st.State, st.Reasons)
	}
}

// A card that answers with another configuration each time cannot push the host's own
// events out of the history.
func TestConfigurationEventsAreTheCards(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	for range 3 {
		w.agent.mu.Lock()
		w.agent.digest = control.Digest([]byte("another"))
		w.agent.mu.Unlock()
		r.s.poll(t.Context())
	}
	for _, e := range r.s.Status().History {
		if strings.Contains(e.Text, "applied again") && e.Device == "" {
			t.Errorf("%q is an event of the host's", e.Text)
		}
	}
}
