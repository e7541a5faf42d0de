package control

import (
	"fmt"
	"net/netip"

	"github.com/toe-project/toe/feature"
)

// The modes of a card.
const (
	// ModeRouter is the mode in which the card forwards packets.
	ModeRouter = "router"
	// ModeEndpoint is the mode in which the card terminates the host's TCP and
	// UDP and originates its own connections on the wire. It forwards what is
	// bypassed, and every other protocol, as in router mode.
	ModeEndpoint = "endpoint"
)

// MaxPublish bounds Config.Publish, far above use.
const MaxPublish = 256

// Offload is how a card in endpoint mode acts for the host.
type Offload struct {
	// Preserve keeps the host's own address and port on the wire. NAT must be off:
	// what is routed must have the same source.
	Preserve bool `json:"preserve,omitempty"`
	feature.Offload
}

// Publish is a service behind a link that the wire reaches through the card.
type Publish struct {
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Port     uint16 `json:"port"`     // on every address of the card's ports
	Link     string `json:"link"`     // name of the link that leads to the service
	// To is where the service listens, at most one address of each family: a
	// client that keeps its address needs an answer in its own family.
	To []netip.AddrPort `json:"to"`
	// CardSource shows the service the card's address, not the client's.
	CardSource bool `json:"card_source,omitempty"`
}

// The values of Publish.Protocol.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Endpoint reports whether the card is in endpoint mode.
func (c *Config) Endpoint() bool { return c.Mode == ModeEndpoint }

func (v *validator) offload(c *Config) {
	o := c.Offload
	if o.Preserve && c.NAT {
		v.bad("offload.preserve", "true beside nat: true; they are mutually exclusive: "+
			"NAT would hide the address that preserve keeps")
	}
	feature.Check("offload", o.Offload, v.bad)
	v.count("publish", len(c.Publish), 0, MaxPublish)
	if len(c.Publish) > 0 && !c.Endpoint() {
		v.bad("publish", "%d given with mode %q, want mode %q: only an endpoint answers for the host",
			len(c.Publish), c.Mode, ModeEndpoint)
	}
	v.mdns = o.MDNS
	seen := map[string]int{}
	for i := range c.Publish {
		v.publish(fmt.Sprintf("publish[%d]", i), i, &c.Publish[i], c.Links, seen)
	}
}

// publish checks one entry. seen maps a protocol and port to the index of the
// entry that has it.
func (v *validator) publish(field string, index int, p *Publish, links []Link, seen map[string]int) {
	if p.Protocol != TCP && p.Protocol != UDP {
		v.bad(field+".protocol", "%q: want %q or %q", p.Protocol, TCP, UDP)
	}
	key := fmt.Sprintf("%s port %d", p.Protocol, p.Port)
	if other, taken := seen[key]; taken {
		v.bad(field+".port", "%s is that of publish[%d]; want a unique port", key, other)
	}
	seen[key] = index
	if p.Port == 0 {
		v.bad(field+".port", "0: want 1 to 65535")
	}
	if what := CardService(p.Protocol, p.Port, v.mdns); what != "" {
		v.bad(field+".port", "%s is the card's own %s; want another port", key, what)
	}
	i := indexLink(links, p.Link)
	if i < 0 {
		v.bad(field+".link", "%q: want the name of one of links", p.Link)
		return
	}
	v.destinations(field+".to", p, &links[i])
}

// CardService names the card's own service on a port, or is empty. A published
// port is open at every address of the card, so it cannot be one of those. mdns
// says whether the card relays multicast DNS.
func CardService(protocol string, port uint16, mdns bool) string {
	if mdns && protocol == UDP && port == 5353 {
		return "relay of multicast DNS"
	}
	return map[string]map[uint16]string{
		TCP: {22: "ssh", 53: "DNS", APIPort: "control API", ProxyPort: "endpoint mode"},
		UDP: {53: "DNS", 68: "DHCP client", ProxyPort: "endpoint mode"},
	}[protocol][port]
}

func indexLink(links []Link, name string) int {
	for i := range links {
		if links[i].Name == name {
			return i
		}
	}
	return -1
}

func (v *validator) destinations(field string, p *Publish, l *Link) {
	v.count(field, len(p.To), 1, 2)
	families := map[bool]bool{}
	for _, to := range p.To {
		a := to.Addr()
		switch {
		case a.IsLoopback():
			v.bad(field, "%s: no packet from a link may be for a loopback address; "+
				"want an address of the link", to)
		case !usable(a) || a.IsLinkLocalUnicast() || to.Port() == 0 || v.own[a]:
			v.bad(field, "%s: want a unicast address behind the link, and a port", to)
		case families[a.Is4()]:
			v.bad(field, "%s is the second of its family; want one", to)
		case !p.CardSource && !isHostOf(l, a):
			v.bad(field, "%s: with the client's address as the source, want the host's address of link %s: "+
				"answers from another one do not come back through the card", to, l.Name)
		}
		families[a.Is4()] = true
	}
}

func isHostOf(l *Link, a netip.Addr) bool {
	for _, h := range l.Host {
		if h == a {
			return true
		}
	}
	return false
}
