package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// manyLimit is the maximum time for 20 cards to start, and to stop.
const (
	many      = 20
	manyLimit = 60 * time.Second
)

// TestMany starts 20 cards at once. Each answers a packet of full size, and all stop.
func TestMany(t *testing.T) {
	if testing.Short() {
		t.Skip("short: 20 machines at once")
	}
	h := newHost(t)
	file := h.spec(t, "many.yaml", "machine: {kind: uml}\nports: []\n")
	began := time.Now()
	each(t, func(name string) error {
		return h.expect(manyLimit, "up", name, "-q", "-f", file)
	})
	t.Logf("%d cards are up after %s", many, time.Since(began).Round(time.Millisecond))
	addresses := map[string]string{}
	for i := range many {
		st := h.status(t, nameOf(i))
		if st.State != status.Healthy {
			t.Errorf("card %s: %s %v", nameOf(i), st.State, st.Reasons)
		}
		for _, a := range append(st.Link.Card, st.Exec.Card...) {
			if other, taken := addresses[a.String()]; taken {
				t.Errorf("cards %s and %s both have %s", other, nameOf(i), a)
			}
			addresses[a.String()] = nameOf(i)
		}
		if len(st.Link.Card) > 0 {
			h.ping(t, st.Link.Card[0].String())
		}
	}
	each(t, func(name string) error { return h.expect(manyLimit, "down", name) })
	h.gone(t, 5*time.Second)
	if took := time.Since(began); took > manyLimit {
		t.Errorf("%d cards took %s to start, answer and stop; want under %s", many, took, manyLimit)
	}
}

func nameOf(i int) string { return fmt.Sprintf("c%d", i) }

// each runs f for all cards at once.
func each(t *testing.T, f func(name string) error) {
	t.Helper()
	errs := make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = f(nameOf(i))
		}()
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// expect is like run, for a goroutine, which may not end the test.
func (h *host) expect(limit time.Duration, args ...string) error {
	r, err := h.try(limit, nil, args...)
	if err == nil && r.status != 0 {
		err = fmt.Errorf("toe %v: %s", args, r)
	}
	return err
}

// ping sends one packet of 65535 bytes that may not be fragmented.
func (h *host) ping(t *testing.T, to string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", h.netns, "ping", "-c1", "-W5", "-M", "do", "-s", "65507", to).CombinedOutput()
	if err != nil {
		t.Errorf("ping of 65507 bytes to %s: %v: %s", to, err, out)
	}
}
