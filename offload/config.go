package offload

import (
	"net/netip"

	"github.com/toe-project/toe/feature"
)

// Config says what the endpoint takes over. Its maker has validated it.
type Config struct {
	// Links are the interfaces that lead to the host, Ports those that lead
	// to the wire.
	Links, Ports []string
	// Preserve keeps the host's address and port on the wire, for networks
	// that route to it; else the card speaks with an address of its own.
	Preserve bool
	feature.Offload
	Publish []Publish
}

// Publish is a service of the host that the card faces the wire for.
type Publish struct {
	Protocol string // "tcp" or "udp"
	Port     uint16 // on the card, at every address of its ports
	// To4 and To6 are where the service listens, an address of the host's
	// side for clients of each family. One of them may be invalid: clients
	// of that family come to the other, with the card's address.
	To4, To6 netip.AddrPort
	// CardSource gives the host's program the card's address in place of
	// the client's.
	CardSource bool
}

// target is where a client is taken, and whether its address can be kept.
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
