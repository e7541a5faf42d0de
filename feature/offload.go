package feature

// Offload is how a card in endpoint mode acts for the host.
type Offload struct {
	Bypass     Bypass `yaml:"bypass,omitempty" json:"bypass,omitzero" doc:"what an endpoint only forwards, end to end"`
	MDNS       bool   `yaml:"mdns,omitempty" json:"mdns,omitempty" doc:"relay multicast DNS (RFC 6762) between host and ports" mode:"endpoint" default:"false"`
	Congestion string `yaml:"congestion,omitempty" json:"congestion,omitempty" enum:"cubic|bbr|reno" doc:"how the card's connections on the wire find their rate: cubic slows down for each loss, bbr measures what the path carries" mode:"endpoint" default:"cubic"`
}

// Bypass is what stays end to end: a packet that meets one of the lists is
// routed, as in router mode.
type Bypass struct {
	TCP       []PortRange `yaml:"tcp,omitempty" json:"tcp,omitempty" max:"64" doc:"destination ports of TCP, such as 22 or 8000-8010"`
	UDP       []PortRange `yaml:"udp,omitempty" json:"udp,omitempty" max:"64" doc:"destination ports of UDP"`
	Addresses []Range     `yaml:"addresses,omitempty" json:"addresses,omitempty" max:"64" doc:"destinations, such as 10.0.0.0/8 or 192.0.2.7"`
	// DSCP is the mark that a packet can carry across the link: a program sets it
	// on its own socket without privilege.
	DSCP []DSCP `yaml:"dscp,omitempty" json:"dscp,omitempty" max:"64" doc:"marks that a program sets on its own sockets (IP_TOS, IPV6_TCLASS): 0 to 63, or names such as cs1, af11, ef"`
}

// IsZero makes yaml leave an empty bypass out.
func (b Bypass) IsZero() bool {
	return len(b.TCP)+len(b.UDP)+len(b.Addresses)+len(b.DSCP) == 0
}
