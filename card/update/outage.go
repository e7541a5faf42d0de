package update

import (
	"context"
	"sync"
	"time"
)

// Outage is the longest time without an answer of the card, from the last answer before it to the
// first one after it.
type Outage struct {
	Duration time.Duration
	Last     time.Time // answer before
	Asked    int       // probes
	Answered int
}

// probe is a small exchange with the card. It ends with ctx.
type probe func(ctx context.Context) error

const (
	probeEvery = 20 * time.Millisecond
	probeLimit = 100 * time.Millisecond // for an answer: the round trip of a link is below 1 ms
)

// watchOutage probes until the returned function is called, which says what was seen.
func watchOutage(ctx context.Context, p probe) (end func() Outage) {
	ctx, cancel := context.WithCancel(ctx)
	var o Outage
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for last := (time.Time{}); ; {
			once, cancel := context.WithTimeout(ctx, probeLimit)
			err := p(once)
			cancel()
			if ctx.Err() != nil {
				return
			}
			o.Asked++
			if err == nil {
				now := time.Now()
				o.Answered++
				if d := now.Sub(last); !last.IsZero() && d > o.Duration {
					o.Duration, o.Last = d, last
				}
				last = now
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() Outage {
		cancel()
		done.Wait()
		return o
	}
}
