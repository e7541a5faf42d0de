package spec

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/toe-project/toe/control"
)

// congestionCubic is the default of OffloadSpec.Congestion: the kernel's own.
const congestionCubic = "cubic"

// Offload says how the card speaks for the host.
type Offload struct {
	Mode   string `yaml:"mode,omitempty" enum:"endpoint|router" doc:"endpoint: the card ends the host's TCP and UDP and speaks for it on the wire; router: the card forwards packets" default:"endpoint"`
	Source string `yaml:"source,omitempty" enum:"masquerade|preserve" doc:"masquerade: the wire sees the card's own addresses; preserve: it sees the host's, for networks that route them to the card" default:"masquerade"`
	Bypass Bypass `yaml:"bypass,omitempty" doc:"what an endpoint only forwards, end to end"`
	// Congestion is one of control.Congestions.
	Congestion string `yaml:"congestion,omitempty" enum:"cubic|bbr|reno" doc:"how the card's connections on the wire find their rate: cubic slows down for each loss, bbr measures what the path carries; endpoint mode" default:"cubic"`
	MDNS       bool   `yaml:"mdns,omitempty" doc:"relay multicast DNS between host and ports; endpoint mode" default:"false"`
}

// Bypass is what stays end to end: a packet that meets one of the lists.
type Bypass struct {
	TCP       []PortRange `yaml:"tcp,omitempty" doc:"destination ports of TCP, such as 22 or 8000-8010"`
	UDP       []PortRange `yaml:"udp,omitempty" doc:"destination ports of UDP"`
	Addresses []Range     `yaml:"addresses,omitempty" doc:"destinations, such as 10.0.0.0/8 or 192.0.2.7"`
	DSCP      []DSCP      `yaml:"dscp,omitempty" doc:"marks that a program sets on its own sockets (IP_TOS, IPV6_TCLASS): 0 to 63, or names such as cs1, af11, ef"`
}

// IsZero makes yaml leave an empty bypass out.
func (b Bypass) IsZero() bool {
	return len(b.TCP)+len(b.UDP)+len(b.Addresses)+len(b.DSCP) == 0
}

// PortRange is a port, or two with a dash.
type PortRange control.PortRange

var _ encoding.TextUnmarshaler = (*PortRange)(nil)

// UnmarshalText reads 22 or 8000-8010.
func (r *PortRange) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || b < a {
		return fmt.Errorf("not a port from 1 to 65535, nor two with a dash such as 8000-8010")
	}
	r.First, r.Last = uint16(a), uint16(b)
	return nil
}

// MarshalYAML writes a number where there is one.
func (r PortRange) MarshalYAML() (any, error) {
	if r.First == r.Last {
		return int(r.First), nil
	}
	return control.PortRange(r).String(), nil
}

// Range is an address, or a prefix of addresses.
type Range struct{ netip.Prefix }

// UnmarshalText reads 10.0.0.0/8 or 192.0.2.7.
func (n *Range) UnmarshalText(text []byte) error {
	s := string(text)
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		n.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return fmt.Errorf("neither an address nor one with a prefix length, such as 10.0.0.0/8")
	case p.Masked() != p:
		return fmt.Errorf("has bits beyond its prefix length; %s has not", p.Masked())
	}
	n.Prefix = p
	return nil
}

// MarshalText leaves out the length of a single address.
func (n Range) MarshalText() ([]byte, error) {
	if n.IsSingleIP() {
		return n.Addr().MarshalText()
	}
	return n.Prefix.MarshalText()
}

// DSCP is a differentiated services code point (RFC 2474).
type DSCP int

// dscpNames are those of RFC 2474, 2597, 3246, 5865 and 8622.
var dscpNames = map[string]DSCP{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22,
	"af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
	"ef": 46, "va": 44, "le": 1,
}

// UnmarshalText reads a name or 0 to 63.
func (d *DSCP) UnmarshalText(text []byte) error {
	if v, ok := dscpNames[strings.ToLower(string(text))]; ok {
		*d = v
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 6)
	if err != nil {
		return fmt.Errorf("not a DSCP: 0 to 63, or cs0 to cs7, af11 to af43, ef, va or le")
	}
	*d = DSCP(n)
	return nil
}

func (s *Spec) offloadProblems(add func(string, string, ...any)) {
	o := s.Offload
	tagProblems("offload", reflect.ValueOf(o), add)
	for _, l := range []struct {
		key string
		n   int
	}{{"tcp", len(o.Bypass.TCP)}, {"udp", len(o.Bypass.UDP)}, {"addresses", len(o.Bypass.Addresses)}, {"dscp", len(o.Bypass.DSCP)}} {
		if l.n > control.MaxBypass {
			add("offload.bypass."+l.key, "%d entries: at most %d", l.n, control.MaxBypass)
		}
	}
	if o.Mode == control.ModeRouter && o.MDNS {
		add("offload.mdns", "true: only mode: endpoint relays multicast DNS")
	}
	if o.Mode == control.ModeRouter && o.Congestion != congestionCubic {
		add("offload.congestion", "%q: only mode: endpoint has connections of its own on the wire", o.Congestion)
	}
	s.publishProblems(add)
}

// Config is what the card is told of it.
func (o Offload) Config() control.Offload {
	out := control.Offload{Preserve: o.Source == SourcePreserve, MDNS: o.MDNS, Congestion: o.Congestion}
	for _, r := range o.Bypass.TCP {
		out.Bypass.TCP = append(out.Bypass.TCP, control.PortRange(r))
	}
	for _, r := range o.Bypass.UDP {
		out.Bypass.UDP = append(out.Bypass.UDP, control.PortRange(r))
	}
	for _, n := range o.Bypass.Addresses {
		out.Bypass.Addresses = append(out.Bypass.Addresses, n.Prefix)
	}
	for _, d := range o.Bypass.DSCP {
		out.Bypass.DSCP = append(out.Bypass.DSCP, int(d))
	}
	return out
}

// Endpoint says whether the card ends the host's connections.
func (s *Spec) Endpoint() bool { return s.Offload.Mode == control.ModeEndpoint }
