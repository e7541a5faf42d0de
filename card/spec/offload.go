package spec

import (
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
)

// Offload configures how the card acts for the host. Its own keys apply to the whole card.
type Offload struct {
	Mode            string `yaml:"mode,omitempty" enum:"endpoint|router" doc:"endpoint: the card terminates the host's TCP and UDP and originates its own on the wire; router: the card forwards packets" default:"endpoint"`
	Source          string `yaml:"source,omitempty" enum:"masquerade|preserve" doc:"masquerade: the wire sees the card's own addresses; preserve: it sees the host's, for networks that route them to the card" default:"masquerade"`
	feature.Offload `yaml:",inline"`
}

func (s *Spec) offloadProblems(add feature.Report) {
	o := s.Offload
	feature.Check("offload", o, add)
	feature.CheckMode("offload", o.Mode, o, add)
	s.publishProblems(add)
}

// Config returns the part of card.json that the key decides.
func (o Offload) Config() control.Offload {
	return control.Offload{Preserve: o.Source == SourcePreserve, Offload: o.Offload}
}

// Endpoint reports whether the card terminates the host's connections.
func (s *Spec) Endpoint() bool { return s.Offload.Mode == control.ModeEndpoint }
