package offload

import (
	"net/netip"

	"github.com/toe-project/toe/feature"
)

// Config is the configuration of the endpoint. The caller has validated it.
type Config struct {
	// Links are the interfaces to the host, Ports those to the wire.
	Links, Ports []string
	// Preserve keeps the host's address and port on the wire, for networks that route to the host.
	// Otherwise the card uses an address of its own.
	Preserve bool
	feature.Offload
	Publish []Publish
}

// Publish is a service of the host that the card makes reachable from the wire.
type Publish struct {
	Protocol string // "tcp" or "udp"
	Port     uint16 // on the card, at every address of its ports
	// To4 and To6 are the addresses of the service on the host's side, for clients of each family.
	// One of them may be invalid: clients of that family are connected to the other, with the card's
	// address as the source.
	To4, To6 netip.AddrPort
	// CardSource shows the host the card's address in place of the client's.
	CardSource bool
}

// target returns the service's address for a client, and whether the client's address can be kept.
func (p Publish) target(client netip.Addr) (to netip.AddrPort, keep bool) {
	same, other := p.To4, p.To6
	if client.Is6() {
		same, other = other, same
	}
	if !same.IsValid() {
		return other, false
	}
	return same, !p.CardSource
}
