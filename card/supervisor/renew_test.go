package supervisor

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// usedImage counts the images in use.
type usedImage struct{ w *scene }

func (i usedImage) Close() error { i.w.opened("image", -1); return nil }

// A card without a flash takes a newer image while its links stay, and keeps it where it becomes as
// healthy as it was. Where it does not, it goes back: after a panic, after the machine cannot be started,
// and where the agent reports a fault.
func TestRenew(t *testing.T) {
	panics := fake.Step{After: time.Millisecond, Exit: machine.Exit{Cause: machine.Panicked, Detail: "Oops"}}
	for _, c := range []struct {
		name     string
		steps    []fake.Step
		degraded bool // with the new image
		want     []string
		version  string
	}{
		{"kept", []fake.Step{{}}, false, []string{"started", "good"}, "two"},
		{"panics", []fake.Step{{}, panics, {}}, false, []string{"started", "fell-back"}, "one"},
		{"cannot be started", []fake.Step{{}, {Err: context.DeadlineExceeded}, {}}, false, []string{"started", "fell-back"}, "one"},
		{"degraded", []fake.Step{{}}, true, []string{"started", "fell-back"}, "one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newScene()
			card := storetest.Card(t, "")
			var version atomic.Value
			version.Store("one")
			parts := w.parts()
			parts.Image = func(_ context.Context, edition string, _ machine.Kind) (Image, error) {
				w.opened("image", 1)
				v := version.Load().(string)
				return Image{Edition: edition, Version: v, Digest: v, InUse: usedImage{w}}, nil
			}
			w.machine.Steps = c.steps
			r := startParts(t, w, card, parts)
			r.await("health", inState(status.Healthy))
			cl := client.New(card)
			if to, err := cl.Renew(t.Context(), "me"); err != nil || to.Changed {
				t.Fatalf("the same image: %+v, %v", to, err)
			}
			links := w.isOpen("link")
			version.Store("two")
			if c.degraded {
				bad := healthyReply()
				bad.Health = cardpb.Health_HEALTH_DEGRADED
				bad.Reasons = []*cardpb.Reason{{Component: "dns", State: cardpb.Health_HEALTH_DEGRADED, Detail: "no answer"}}
				w.agent.set(bad, false)
			}
			if c.name == "panics" {
				w.agent.set(healthyReply(), true) // it does not answer before that
			}
			if to, err := cl.Renew(t.Context(), "me"); err != nil || !to.Changed || to.From != "one" || to.To != "two" {
				t.Fatalf("%+v, %v", to, err)
			}
			r.await("the outcome", func(st status.Status) bool {
				all, _ := entries(t, card)
				if len(all) == 2 {
					w.agent.set(healthyReply(), false)
				}
				return len(all) == 2 && st.State == status.Healthy && st.Firmware.Version == c.version
			})
			got, events := entries(t, card)
			if !slices.Equal(got, c.want) || events[0].Who != "me" {
				t.Errorf("history %v: %+v", got, events)
			}
			if c.name == "degraded" && !strings.Contains(events[1].Why, "dns: no answer") {
				t.Errorf("it went back because %q", events[1].Why)
			}
			if n := w.isOpen("image"); n != 1 || w.isOpen("link") != links {
				t.Errorf("%d images in use, %d links of %d", n, w.isOpen("link"), links)
			}
			r.stop()
			_ = r.wait()
			if leaks := w.leaks(); len(leaks) > 0 {
				t.Errorf("left open: %v", leaks)
			}
		})
	}
}

// A card with slots is refused.
func TestRenewOfACardWithSlots(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	r := startParts(t, w, c, w.flashParts())
	r.await("the start", func(st status.Status) bool { return st.Firmware.Slot == "B" })
	if _, err := client.New(c).Renew(t.Context(), "me"); err == nil || !strings.Contains(err.Error(), "toe firmware install") {
		t.Errorf("%v", err)
	}
}
