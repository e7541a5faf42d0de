package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/toe-project/toe/control"
)

// timePart is the card's clock.
type timePart struct {
	idle
	*env
	clock *clock
}

func newTimePart(e *env) *timePart {
	c := newClock(e.log)
	c.servers = e.conf.TimeServers
	return &timePart{env: e, clock: c}
}

func (t *timePart) start(ctx context.Context) { t.spawn(func() { t.clock.run(ctx) }) }

func (t *timePart) plan(now, next *control.Config) ([]step, error) {
	if slices.Equal(now.TimeServers, next.TimeServers) {
		return nil, nil
	}
	return []step{{
		fmt.Sprintf("time servers %v", next.TimeServers),
		func() error { t.clock.setServers(next.TimeServers); return nil },
		func() error { t.clock.setServers(now.TimeServers); return nil },
	}}, nil
}

func (t *timePart) health() []reason { return []reason{t.clock.health()} }
