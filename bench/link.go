package bench

import (
	"context"
	"errors"

	"github.com/toe-project/toe/machine"
)

const cardName = "bench"

// measureLink runs a card of the chosen kind and its traffic. The link of a User-Mode Linux card is
// compared with the same link limited to an MTU of 1500, since there is no other path to such a
// card; that of a QEMU card with its rivals.
func measureLink(ctx context.Context, r *run) error {
	return r.withCard(ctx, r.Machine, func(c *testCard) error {
		if machine.Kind(c.status.Machine.Kind) != machine.UML {
			return r.againstRivals(ctx, c)
		}
		r.skip("uml/tap", "QEMU's tap serves no User-Mode Linux card, and the kernel's own tap driver is not in a static one; "+
			"the link is set beside itself held to an MTU of 1500 here, and beside its rivals with a QEMU card")
		g, err := r.linkRig(ctx, c)
		if g != nil {
			defer g.close()
		}
		if err != nil {
			return err
		}
		return r.compare(ctx, machine.UML, g.held(c.status.Link.Interface))
	})
}

// measureRivals runs a QEMU card and its rivals in a run whose own card is not on QEMU.
func measureRivals(ctx context.Context, r *run) error {
	if kind := machine.Kind(r.report.Host.Machine); kind == machine.TCG || kind == machine.KVM {
		return nil // done with the link
	}
	return r.withCard(ctx, string(machine.TCG), func(c *testCard) error { return r.againstRivals(ctx, c) })
}

// againstRivals compares the link of a QEMU card with QEMU's tap and passt.
func (r *run) againstRivals(ctx context.Context, c *testCard) (err error) {
	kind := machine.Kind(c.status.Machine.Kind)
	var rigs []*rig
	defer func() { err = errors.Join(err, closeAll(rigs)) }()
	stage := r.Progress.Stage("starting the same card on QEMU's tap and passt", int64(1+len(rivals())))
	defer func() { stage.Fail(err) }()
	g, err := r.linkRig(ctx, c)
	if g != nil {
		rigs = append(rigs, g)
	}
	if err != nil {
		return err
	}
	stage.Add(1)
	for _, rival := range rivals() {
		stage.Note(rival.name)
		g, err := rival.start(ctx, r, c)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.skip(string(kind)+"/"+rival.name, err.Error())
			continue
		}
		rigs = append(rigs, g)
		stage.Add(1)
	}
	stage.Done("")
	return r.compare(ctx, kind, rigs)
}

// rival is a path between host and card that the link is compared with.
type rival struct {
	name  string
	start func(context.Context, *run, *testCard) (*rig, error)
}

func rivals() []rival {
	var all []rival
	for _, k := range tapKinds {
		all = append(all, rival{k.name, func(ctx context.Context, r *run, c *testCard) (*rig, error) { return r.tapRig(ctx, c, k) }})
	}
	return append(all, rival{"passt", func(ctx context.Context, r *run, c *testCard) (*rig, error) { return r.passtRig(ctx, c) }})
}

// withCard runs f with a card that is up, and takes the card down.
func (r *run) withCard(ctx context.Context, kind string, f func(*testCard) error) (err error) {
	c, _, err := r.up(ctx, cardName, kind)
	if err != nil && ctx.Err() == nil {
		// One failed start is reported, and does not end a long run.
		r.skip(kind+"/up, first try", err.Error())
		c, _, err = r.up(ctx, cardName, kind)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.down()) }()
	r.saw(c)
	return f(c)
}

// saw records the kind of the run's own card.
func (r *run) saw(c *testCard) {
	if r.report.Host.Machine == "" {
		r.report.Host.Machine, r.report.Host.Card = c.status.Machine.Kind, c.status.Firmware.Kernel
	}
}
