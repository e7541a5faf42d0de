package bench

import (
	"context"
	"errors"

	"github.com/toe-project/toe/machine"
)

const cardName = "bench"

// measureLink runs a card of the chosen kind and its traffic. Beside the link of a
// User-Mode Linux card stands the same link held to an MTU of 1500, since there
// is no other way to such a card; beside that of a QEMU card its rivals.
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

// measureRivals is for a run whose card is no QEMU: one with a QEMU card beside.
func measureRivals(ctx context.Context, r *run) error {
	if kind := machine.Kind(r.report.Host.Machine); kind == machine.TCG || kind == machine.KVM {
		return nil // done with the link
	}
	return r.withCard(ctx, string(machine.TCG), func(c *testCard) error { return r.againstRivals(ctx, c) })
}

// againstRivals sets the link of a QEMU card beside QEMU's tap and passt.
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

// rival is a way between host and card that the link is set beside.
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

// withCard runs f beside a card that is up, and takes it down.
func (r *run) withCard(ctx context.Context, kind string, f func(*testCard) error) (err error) {
	c, _, err := r.up(ctx, cardName, kind)
	if err != nil && ctx.Err() == nil {
		// One failed start is told, and does not cost the rest of a long run.
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

// saw notes what the run's own card is.
func (r *run) saw(c *testCard) {
	if r.report.Host.Machine == "" {
		r.report.Host.Machine, r.report.Host.Card = c.status.Machine.Kind, c.status.Firmware.Kernel
	}
}
