package supervisor

import (
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// hear adds what the agent said last.
func hear(st *status.Offload, o *cardpb.Offload) {
	st.Running = o.GetRunning()
	if o.GetMode() != control.ModeEndpoint || !st.Running {
		return
	}
	st.SystemCalls = o.SystemCalls
	if t := o.Tcp; t != nil {
		st.TCP = &status.OffloadTCP{
			Open: t.Open, Opening: t.Opening, Opened: t.Opened, Published: t.Published, Refused: t.Refused,
			Unreachable: t.Unreachable, TimedOut: t.TimedOut, Reset: t.Reset_,
			FromHostBytes: t.FromHostBytes, ToHostBytes: t.ToHostBytes, Drops: causes(t.Drops),
		}
	}
	if u := o.Udp; u != nil {
		st.UDP = &status.OffloadUDP{
			Flows: u.Flows, Opened: u.Opened, FromHost: u.FromHost, ToHost: u.ToHost,
			FromHostBytes: u.FromHostBytes, ToHostBytes: u.ToHostBytes, ICMPErrors: u.IcmpErrors, Drops: causes(u.Drops),
		}
	}
}

// maxCauses bounds what a card may say of itself.
const maxCauses = 64

// causes is never nil, so that JSON has an object, and never large: a card is
// not trusted.
func causes(from map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for name, n := range from {
		if len(out) < maxCauses && len(name) <= maxCauses {
			out[name] = n
		}
	}
	return out
}
