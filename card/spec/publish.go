package spec

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
)

// Values of Offload.Source and of Publish.In and Source.
const (
	SourceMasquerade = "masquerade"
	SourcePreserve   = "preserve"
	InHost           = "host"
	InExec           = "exec"
	SourceClient     = "client"
	SourceCard       = "card"
)

// maxPublish bounds the list. The card has the same bound.
const maxPublish = control.MaxPublish

// Publish is a service of the host that the card publishes on the wire.
type Publish struct {
	Protocol string `yaml:"protocol,omitempty" enum:"tcp|udp" doc:"tcp or udp" default:"tcp"`
	Port     int    `yaml:"port" required:"true" min:"1" max:"65535" doc:"the port on the card, at each address of its ports"`
	To       Target `yaml:"to,omitempty" doc:"where the service listens: PORT at the host's link address, or ADDRESS:PORT" absent:"the same port, at the host's link address"`
	In       string `yaml:"in,omitempty" enum:"host|exec" doc:"host: the service runs on the host; exec: it runs in toe exec. A card without root has only exec" default:"host"`
	Source   string `yaml:"source,omitempty" enum:"client|card" doc:"whose address the service sees: the client's own, or the card's" default:"client"`
}

// Target is a port, or an address with a port. The zero Target means the
// published port itself.
type Target struct {
	Addr netip.Addr // invalid: the host's addresses of the link
	Port uint16
}

var (
	_ encoding.TextUnmarshaler = (*Target)(nil)
	_ encoding.TextMarshaler   = Target{}
)

// IsZero makes yaml leave an absent target out.
func (t Target) IsZero() bool { return t == Target{} }

// UnmarshalText reads 8080, 192.0.2.7:8080 or [2001:db8::7]:8080.
func (t *Target) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
		*t = Target{Port: uint16(n)}
		return nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil || at.Port() == 0 {
		return errors.New("want a port from 1 to 65535 or ADDRESS:PORT, such as 192.0.2.7:8080 or [2001:db8::7]:8080")
	}
	*t = Target{at.Addr(), at.Port()}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalYAML writes a target without an address as a number.
func (t Target) MarshalYAML() (any, error) {
	if !t.Addr.IsValid() {
		return int(t.Port), nil
	}
	return t.String(), nil
}

func (t Target) String() string {
	if !t.Addr.IsValid() {
		return strconv.Itoa(int(t.Port))
	}
	return netip.AddrPortFrom(t.Addr, t.Port).String()
}

func (s *Spec) publishProblems(add feature.Report) {
	if len(s.Publish) > maxPublish {
		add("publish", "%d entries: want %d at most", len(s.Publish), maxPublish)
		return
	}
	if len(s.Publish) > 0 && s.Offload.Mode == control.ModeRouter {
		add("publish", "needs offload.mode: endpoint: a router publishes nothing")
	}
	seen := map[string]int{}
	for i, p := range s.Publish {
		at := fmt.Sprintf("publish[%d]", i)
		if p.Port == 0 {
			add(at+".port", "missing: want 1 to 65535, such as port: 8080")
			continue
		}
		feature.Check(at, p, add)
		key := fmt.Sprintf("%s port %d", p.Protocol, p.Port)
		if other, taken := seen[key]; taken {
			add(at+".port", "%s is published by publish[%d] already", key, other)
		}
		seen[key] = i
		if what := control.CardService(p.Protocol, uint16(p.Port), s.Offload.MDNS); what != "" {
			add(at+".port", "%s is the card's own (%s); publish another port, with to: %d", key, what, p.Port)
		}
		if p.In == InExec && !s.Link.WantExec() {
			add(at+".in", "exec: needs link.exec: true")
		}
		s.targetProblems(at+".to", p, add)
	}
}

func (s *Spec) targetProblems(path string, p Publish, add feature.Report) {
	a := p.To.Addr
	switch {
	case !a.IsValid():
	case a.IsLoopback():
		add(path, "%q: the host's kernel drops what an interface receives for a loopback address; have the service listen at the link's address too, and write to: %d", p.To, p.To.Port)
	case a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Is4In6() || a.Zone() != "":
		add(path, "%q: want a unicast address, or the port only", p.To)
	case p.Source == SourceClient && a != s.Link.IPv4.Addr() && a != s.Link.IPv6.Addr():
		add(path, "%q: answers from this address would not come back through the card; write to: %d for the link's own address, or source: card", p.To, p.To.Port)
	}
}

// Targets returns where the service listens. Without an address in To it is each
// of the host's.
func (p Publish) Targets(host []netip.Addr) []netip.AddrPort {
	port := p.To.Port
	if port == 0 {
		port = uint16(p.Port)
	}
	if p.To.Addr.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(p.To.Addr, port)}
	}
	var out []netip.AddrPort
	for _, a := range host {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}

// PublishesHost reports whether a service on the host itself is published.
func (s *Spec) PublishesHost() bool {
	for _, p := range s.Publish {
		if p.In == InHost && s.Endpoint() {
			return true
		}
	}
	return false
}
