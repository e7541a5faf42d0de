package agent

import "github.com/toe-project/toe/control/cardpb"

// health is the state of one component, or of the whole card.
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

// overall is degraded if one component is, else starting if one is.
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
