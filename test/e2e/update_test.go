package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// TestUpdateMicro starts a card of edition micro with newer images while its link stays: one that
// works, and one whose first process ends.
func TestUpdateMicro(t *testing.T) {
	j := newJourney(t, kinds[0])
	j.newCache(t)
	j.up(t)
	r := j.run(t, quick, 0, "firmware", "update", "card0")
	if !strings.Contains(r.out, "already") {
		t.Errorf("the same image: %s", r.out)
	}

	build := func(program string) {
		j.run(t, time.Minute, 0, "firmware", "build", "--offline", "--quiet", "--machine", j.kind.name, "--agent", program)
	}
	agent, err := os.ReadFile(filepath.Join(filepath.Dir(toe), "toe-agent"))
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(j.dir, "toe-agent")
	// The kernel ignores what follows the last segment.
	if err := os.WriteFile(newer, append(agent, "newer"...), 0o755); err != nil {
		t.Fatal(err)
	}
	build(newer)
	network := func() string {
		return ip(t, "-n", j.netns, "addr", "show", "toe0") + ip(t, "-n", j.netns, "route") + ip(t, "-n", j.netns, "-6", "route")
	}
	before, old := network(), j.card.Firmware.Version
	p, s, k := startProbe(t, j.netns), startStream(t, j.netns), startKnock(t, j.netns)
	r = j.run(t, 2*j.kind.start, 0, "firmware", "update", "card0", "--json")
	p.answers(t, quick)
	var got struct {
		Version string  `json:"version"`
		Started bool    `json:"started"`
		Outage  float64 `json:"outage_seconds"`
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || !got.Started || got.Version == old || got.Outage == 0 {
		t.Fatalf("update: %v: %s", err, r.out)
	}
	s.breaks(t) // the card has lost its half of the connection
	t.Logf("no answer for %.2f s, no datagram from the world for %.2f s, no new connection for %.2f s", got.Outage,
		time.Duration(p.gap.Load()).Seconds(), k.gap(t).Seconds())
	if after := network(); after != before {
		t.Errorf("the host's network before: %s\nafter: %s", before, after)
	}
	if st := j.status(t, "card0"); st.Firmware.Version != got.Version || st.State != status.Healthy {
		t.Errorf("firmware %s, %s %v", st.Firmware.Version, st.State, st.Reasons)
	}
	j.bulk(t)

	build(self)
	r = j.run(t, 2*j.kind.start, 1, "firmware", "update", "card0")
	if !strings.Contains(r.err, "the card went back to the image before, "+got.Version) {
		t.Errorf("an image that does not start: %s", r.err)
	}
	j.await(t, "card0", j.kind.start, "the image before", func(st status.Status) error {
		if st.Firmware.Version != got.Version || st.State != status.Healthy {
			return fmt.Errorf("firmware %s, %s %v", st.Firmware.Version, st.State, st.Reasons)
		}
		return nil
	})
	if out := j.run(t, quick, 0, "firmware", "history").out; !strings.Contains(out, "fell-back") || !strings.Contains(out, lastWords) {
		t.Errorf("history: %s", out)
	}
	j.run(t, quick, 0, "down")
}
