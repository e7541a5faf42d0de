package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/ethtool"
	"github.com/toe-project/toe/machine"
)

const mtuWire = 1500

// linkRig is the link of a running card.
func (r *run) linkRig(ctx context.Context, c *testCard) (*rig, error) {
	g := &rig{name: "link", card: c.card, host: c.cardAddr(), pump: process(c.status.Pump.PID)}
	who := []spent{g.pump, r.softirqs()}
	if kind := machine.Kind(c.status.Machine.Kind); kind != machine.UML {
		qemu, err := emulation(c.status.Machine.PID)
		if err != nil {
			return nil, err
		}
		who = append(who, qemu)
	}
	g.others = total(who...)
	return g, g.listen(ctx, fmt.Sprintf("%s:%d", g.host, servePort), 20*time.Second)
}

// held makes three rigs of a link: unchanged, and limited to an MTU of 1500, with TSO and without.
// They share the card, so each sets it up for its rounds.
func (g *rig) held(iface string) []*rig {
	variant := func(name string, mtu int, tso bool) *rig {
		v := *g
		v.name, v.closers = name, nil
		v.prepare = func(ctx context.Context) error { return g.hold(ctx, iface, mtu, tso) }
		return &v
	}
	return []*rig{
		variant("link", control.LinkMTU, true),
		variant("link-1500-tso", mtuWire, true),
		variant("link-1500-plain", mtuWire, false),
	}
}

// hold sets MTU and TSO of both ends of the link.
func (g *rig) hold(ctx context.Context, iface string, mtu int, tso bool) error {
	l, err := netlink.LinkByName(iface)
	if err == nil {
		err = netlink.LinkSetMTU(l, mtu)
	}
	if err == nil {
		err = ethtool.SetTSO(iface, tso)
	}
	if err != nil {
		return fmt.Errorf("link held to an MTU of %d: %w", mtu, err)
	}
	on := uint16(0)
	if tso {
		on = 1
	}
	_, err = g.ask(ctx, 1, 'g', uint16(mtu), on)
	return err
}
