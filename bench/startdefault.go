package bench

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/machine"
)

// defaultName is the prefix of these figures' names.
func defaultName(kind machine.Kind) string { return string(kind) + "/default/" }

// measureDefault measures the card of an empty card.yaml: with toe exec's link, a port through
// passt, and endpoint mode. It is healthy when the port has its address.
func (r *run) measureDefault(ctx context.Context, kind machine.Kind) (err error) {
	out, err := makeWayOut()
	if err != nil {
		r.skip(defaultName(kind), err.Error())
		return nil
	}
	defer func() { err = errors.Join(err, netlink.LinkDel(out)) }()
	stage := r.Progress.Stage("toe up of a card with an empty card.yaml", int64(r.Rounds))
	defer func() { stage.Fail(err) }()
	var command []float64
	for i := range r.Rounds {
		c, took, err := r.upWith(ctx, cardName, r.Machine, "")
		if err != nil {
			return err
		}
		command = append(command, took.Seconds())
		stage.Add(1)
		if i == r.Rounds-1 {
			err = r.measureIdle(ctx, defaultName(kind)+"idle/", c)
		}
		if err := errors.Join(err, c.down()); err != nil {
			return err
		}
	}
	r.add(defaultName(kind)+"up/ready", "s", command).Note = "from the command to its end"
	return nil
}

// makeWayOut gives this network namespace a default route to a dead end: passt needs one.
func makeWayOut() (netlink.Link, error) {
	const name = "out0"
	gateway := net.IPv4(192, 0, 2, 1)
	l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "out1"}
	if err := netlink.LinkAdd(l); err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	peer, err := netlink.LinkByName("out1")
	if err == nil {
		err = errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(l),
			netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 9), Mask: net.CIDRMask(24, 32)}}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway}))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", name, err), netlink.LinkDel(l))
	}
	return l, nil
}
