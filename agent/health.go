package agent

import "github.com/toe-project/toe/control/cardpb"

// health is how one component, or the whole card, is.
type health = cardpb.Health

const (
	starting = cardpb.Health_HEALTH_STARTING
	healthy  = cardpb.Health_HEALTH_HEALTHY
	degraded = cardpb.Health_HEALTH_DEGRADED
)

// reason is a component's state in words for a person.
type reason struct {
	component string
	state     health
	detail    string
}

func (r reason) with(state health, detail string) reason {
	r.state, r.detail = state, detail
	return r
}

// overall is the worst state: one degraded component degrades the card, and
// until then one that starts keeps it starting.
func overall(all []reason) health {
	state := healthy
	for _, r := range all {
		if r.state == degraded {
			return degraded
		}
		if r.state == starting {
			state = starting
		}
	}
	return state
}
