package supervisor

import (
	"net/netip"
	"slices"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/control/nano"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/newc"
)

// Nano makes the parts those of a card with the nano edition: its init has a file and a protocol of
// its own in place of card.json and the agent's API.
func (p *Parts) Nano() {
	client := &nano.Client{}
	p.Initrd = func(c *store.Card, img Image, cfg *control.Config) error {
		data, err := client.Configure(static(cfg), img.KernelVersion)
		if err != nil {
			return err
		}
		return firmware.Overlay(c.Paths.Initrd(), img.Initrd, []newc.File{newc.Regular(nano.FilePath, 0o600, data)})
	}
	p.Control = func(addr netip.AddrPort, _ control.Keys, dial control.DialFunc) (cardpb.CardClient, func(), error) {
		client.Dial(addr.Addr(), dial)
		return client, func() {}, nil
	}
}

// static returns cfg with the addresses that a user port's DHCP would give. Other ports have none
// (card/spec).
func static(cfg *control.Config) *control.Config {
	out := *cfg
	out.Ports = slices.Clone(cfg.Ports)
	for i := range out.Ports {
		p := &out.Ports[i]
		if !p.HasDHCP() {
			continue
		}
		p.Addresses = slices.Clone(p.Addresses)
		p.Addresses[slices.Index(p.Addresses, control.DHCP)] = passt.CardPrefix
		p.Gateway = append(slices.Clone(p.Gateway), netip.MustParseAddr(passt.Gateway))
	}
	return &out
}
