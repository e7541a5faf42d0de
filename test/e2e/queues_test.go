package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"os"
)

// TestTwoQueues loads a link of two queue pairs with several connections at once. Both carry
// packets where the card's kernel has two CPUs, and a new pump takes both over.
func TestTwoQueues(t *testing.T) {
	for _, c := range []struct {
		kind kind
		cpus int
	}{{kinds[0], 1}, {kinds[1], 2}} {
		t.Run(c.kind.name, func(t *testing.T) {
			j := newJourney(t, c.kind)
			text, err := os.ReadFile(filepath.Join(j.dir, "card.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			wish := fmt.Sprintf("machine: {kind: %s, cpus: %d}\nlink: {queues: 2}\n", c.kind.name, c.cpus)
			j.spec(t, "card.yaml", strings.Replace(string(text), fmt.Sprintf("machine: {kind: %s}\n", c.kind.name), wish, 1))
			j.up(t)
			if n := len(j.card.Link.Queues); n != 2 {
				t.Fatalf("%d queues, want 2", n)
			}
			j.bothQueues(t, c.cpus)
			j.killLinkPump(t)
			j.bothQueues(t, c.cpus)
			j.down(t)
		})
	}
}

// bothQueues opens connections until the queues of all CPUs are in use.
func (j *journey) bothQueues(t *testing.T, cpus int) {
	t.Helper()
	before := j.status(t, "card0").Link.Queues
	var all []*stream
	for range 8 {
		all = append(all, startStream(t, j.netns))
	}
	until(t, quick, fmt.Sprintf("packets in the queues of %d CPUs", cpus), func() error {
		toHost, toCard := 0, 0
		now := j.status(t, "card0").Link.Queues
		for i, q := range now {
			if q.ToHost.Packets > before[i].ToHost.Packets {
				toHost++
			}
			if q.ToCard.Packets > before[i].ToCard.Packets {
				toCard++
			}
		}
		if toHost != cpus || toCard != cpus {
			return fmt.Errorf("%d queues to the host and %d to the card carry packets: %+v", toHost, toCard, now)
		}
		return nil
	})
	for _, s := range all {
		s.moves(t, 10*time.Second)
		s.finish(t)
		s.conn.Close()
	}
	j.bulk(t)
}
