package status

import (
	"slices"

	"github.com/toe-project/toe/control"
)

// Offload is the state of the card's offload, and its counters.
type Offload struct {
	Mode    string      `json:"mode"`
	Running bool        `json:"running,omitempty"` // endpoint mode is in force
	TCP     *OffloadTCP `json:"tcp,omitempty"`
	UDP     *OffloadUDP `json:"udp,omitempty"`
	Publish []Publish   `json:"publish,omitempty"`
	// SystemCalls counts those of the card's event loop since endpoint mode started.
	SystemCalls uint64 `json:"system_calls,omitempty"`
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

// Publish is one published service.
type Publish struct {
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"` // on the card
	To       []string `json:"to"`   // ADDRESS:PORT, one of each family at most
	In       string   `json:"in"`
	Source   string   `json:"source"`
}

// Drops are the causes of both protocols, the most frequent first.
func (st Offload) Drops() []Drop {
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
