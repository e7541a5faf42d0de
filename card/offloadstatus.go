package card

import (
	"slices"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// OffloadStatus is how the card speaks for the host.
type OffloadStatus struct {
	Mode    string          `json:"mode"`
	Running bool            `json:"running,omitempty"` // endpoint mode is in force
	TCP     *OffloadTCP     `json:"tcp,omitempty"`
	UDP     *OffloadUDP     `json:"udp,omitempty"`
	Publish []PublishStatus `json:"publish,omitempty"`
}

// OffloadTCP counts connections since endpoint mode started, those of
// published ports included.
type OffloadTCP struct {
	Open          uint64            `json:"open"`    // at this moment
	Opening       uint64            `json:"opening"` // at this moment
	Opened        uint64            `json:"opened"`
	Published     uint64            `json:"published"` // of opened, those from the wire
	Refused       uint64            `json:"refused"`
	Unreachable   uint64            `json:"unreachable"`
	TimedOut      uint64            `json:"timed_out"`
	Reset         uint64            `json:"reset"`
	FromHostBytes uint64            `json:"from_host_bytes"` // payload
	ToHostBytes   uint64            `json:"to_host_bytes"`
	Drops         map[string]uint64 `json:"drops"` // by cause
}

// OffloadUDP counts datagrams.
type OffloadUDP struct {
	Flows         uint64            `json:"flows"` // at this moment
	Opened        uint64            `json:"opened"`
	FromHost      uint64            `json:"from_host"`
	ToHost        uint64            `json:"to_host"`
	FromHostBytes uint64            `json:"from_host_bytes"`
	ToHostBytes   uint64            `json:"to_host_bytes"`
	ICMPErrors    uint64            `json:"icmp_errors"` // of the wire, told to the host
	Drops         map[string]uint64 `json:"drops"`       // by cause
}

// PublishStatus is one published service.
type PublishStatus struct {
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"` // on the card
	To       []string `json:"to"`   // ADDRESS:PORT, one of each family at most
	In       string   `json:"in"`
	Source   string   `json:"source"`
}

// offloadStatus is what is known without the card.
func (s *Spec) offloadStatus(l Links) OffloadStatus {
	out := OffloadStatus{Mode: s.Offload.Mode}
	for _, p := range s.Publish {
		addrs := l.Link
		if p.In == inExec {
			addrs = l.Exec
		}
		st := PublishStatus{Protocol: p.Protocol, Port: uint16(p.Port), To: []string{}, In: p.In, Source: p.Source}
		if addrs != nil {
			for _, to := range p.target(addrs) {
				st.To = append(st.To, to.String())
			}
		}
		out.Publish = append(out.Publish, st)
	}
	return out
}

// hear adds what the agent said last.
func (st *OffloadStatus) hear(o *cardpb.Offload) {
	st.Running = o.GetRunning()
	if o.GetMode() != control.ModeEndpoint || !st.Running {
		return
	}
	if t := o.Tcp; t != nil {
		st.TCP = &OffloadTCP{
			Open: t.Open, Opening: t.Opening, Opened: t.Opened, Published: t.Published, Refused: t.Refused,
			Unreachable: t.Unreachable, TimedOut: t.TimedOut, Reset: t.Reset_,
			FromHostBytes: t.FromHostBytes, ToHostBytes: t.ToHostBytes, Drops: causes(t.Drops),
		}
	}
	if u := o.Udp; u != nil {
		st.UDP = &OffloadUDP{
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

// Drops are the causes of both protocols, the most frequent first.
func (st OffloadStatus) Drops() []Drop {
	var out []Drop
	add := func(protocol string, from map[string]uint64) {
		for cause, n := range from {
			if n > 0 {
				out = append(out, Drop{protocol, cause, n})
			}
		}
	}
	if st.TCP != nil {
		add(control.TCP, st.TCP.Drops)
	}
	if st.UDP != nil {
		add(control.UDP, st.UDP.Drops)
	}
	slices.SortFunc(out, func(a, b Drop) int {
		switch {
		case a.Count > b.Count:
			return -1
		case a.Count < b.Count:
			return 1
		case a.Protocol+a.Cause < b.Protocol+b.Cause:
			return -1
		}
		return 1
	})
	return out
}

// Drop is how often something was not served, and why.
type Drop struct {
	Protocol, Cause string
	Count           uint64
}
