package rom

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// Start is a slot that is about to be started, or the reason for the rescue system.
type Start struct {
	flash.Choice
	Image *firmware.Image // of the slot; nil for the rescue system
	// From is the slot that was started before, where that is another one or none.
	From     flash.Slot
	Switched bool
}

// Boot chooses a slot, checks its image and writes the environment. The image that it returns was
// verified to its last byte; a slot with a damaged one is passed over like an empty one. Files
// unpacks it. The card's machine must be off.
func (r *ROM) Boot(ctx context.Context, hw Hardware) (Start, error) {
	env, err := r.Env()
	if err != nil {
		return Start{}, err
	}
	images, holds := map[flash.Slot]*firmware.Image{}, map[flash.Slot]flash.Held{}
	for _, s := range flash.Slots {
		img, err := r.image(s)
		if err == nil {
			err = hw.fits(img)
		}
		images[s], holds[s] = img, held(img, err)
	}
	for {
		c := flash.Choose(env, holds)
		start := Start{Choice: c, Image: images[c.Slot], From: env.Last(), Switched: env.Last() != c.Slot}
		if c.Slot == "" {
			start.Image = nil
			return start, flash.WriteEnv(r.env(), c.Env)
		}
		err := start.Image.Verify(ctx)
		if ctx.Err() != nil {
			return Start{}, ctx.Err()
		}
		if err == nil {
			return start, flash.WriteEnv(r.env(), c.Env)
		}
		holds[c.Slot] = flash.Held{Err: fmt.Errorf("partition %s: %w", c.Slot.Boot(), err)}
	}
}

// Hardware is what a slot must fit. An empty field fits everything.
type Hardware struct{ Machine, Arch string }

// fits rejects an image for another machine or architecture, which a card's flash may hold: it can
// have been written on the card.
func (h Hardware) fits(img *firmware.Image) error {
	if h.Machine != "" && !slices.Contains(img.Machines, machine.Kind(h.Machine)) {
		return fmt.Errorf("an image for machine %q, this one is %s", img.Machines, h.Machine)
	}
	if h.Arch != "" && h.Arch != img.Arch {
		return fmt.Errorf("an image for architecture %s, this machine has %s", img.Arch, h.Arch)
	}
	return nil
}

// IsGood reports whether the slot that was started has been found healthy since.
func (r *ROM) IsGood(s Start) (bool, error) {
	env, err := r.Env()
	if err != nil || s.Image == nil {
		return false, err
	}
	return isGood(env, s), nil
}

func isGood(env flash.Env, s Start) bool {
	state, _ := env.State(s.Slot, flash.Held{Digest: s.Image.Digest()})
	return state == flash.Good
}

// GiveBack gives a slot on trial the attempt back that its start took: a person asked for the end
// of this life. It reports whether it did, or the card itself has. The card's machine must be off.
func (r *ROM) GiveBack(s Start) (bool, error) {
	env, err := r.Env()
	if err != nil || s.Image == nil || !s.Trial {
		return false, err
	}
	if isGood(env, s) {
		return false, nil
	}
	if env.Left(s.Slot) > s.Env.Left(s.Slot) {
		return true, nil
	}
	changes := env.GiveBack(s.Env, s.Slot, s.Image.Digest())
	return changes != nil, r.change(changes)
}

// Condemn makes the slot that was started bad. The card's machine must be off.
func (r *ROM) Condemn(s Start) error { return r.change(flash.Condemned(s.Slot)) }

// HasBack reports whether a slot on trial has the attempt of this life back already.
func (r *ROM) HasBack(s Start) bool {
	env, err := r.Env()
	return err == nil && env.Left(s.Slot) > s.Env.Left(s.Slot)
}

// errNoWay is the error of a rollback without a slot to go to.
var errNoWay = errors.New("no slot to go back to")

// Rollback makes a slot the first of the order and returns it: the slot to, or the one beside the
// slot that was started last. The card's machine must be off.
func (r *ROM) Rollback(hw Hardware, to flash.Slot) (flash.Slot, error) {
	to, err := r.BackTo(hw, to)
	if err != nil {
		return "", err
	}
	return to, r.change(flash.Env{}.Preferred(to))
}

// ErrZeroTrust means that a card leaves changes of its flash to its administrators.
var ErrZeroTrust = errors.New("the card has zero_trust: only its administrators change it, on the card")

func obey(env flash.Env) error {
	if env.ZeroTrust() {
		return ErrZeroTrust
	}
	return nil
}

// MayChange returns an error where the host may not change the flash. Errors: ErrZeroTrust.
func (r *ROM) MayChange() error {
	env, err := r.Env()
	if err != nil {
		return err
	}
	return obey(env)
}

// BackTo returns the slot that Rollback makes the first, or why it cannot. A slot that is bad is
// accepted only by its name: it gets its attempts again.
func (r *ROM) BackTo(hw Hardware, to flash.Slot) (flash.Slot, error) {
	env, err := r.Env()
	if err == nil {
		err = obey(env)
	}
	if err != nil {
		return "", err
	}
	named := to != ""
	if !named {
		if env.Last() == "" {
			return "", fmt.Errorf("%w: the rescue system runs; name a slot: --slot A or --slot B", errNoWay)
		}
		to = env.Last().Other()
	}
	img, err := r.image(to)
	if err == nil {
		err = hw.fits(img)
	}
	state, why := env.State(to, held(img, err))
	if state == flash.Broken || state == flash.Bad && !named {
		return "", fmt.Errorf("%w: slot %s: %s", errNoWay, to, why)
	}
	return to, nil
}

// ClearData makes the data partition empty. The slots stay. The card's machine must be off: the card
// makes a new file system at its next start.
func (r *ROM) ClearData() error {
	p := r.table.Find(flash.DataName)
	err := unix.Fallocate(int(r.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.Offset, p.Size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = r.zero(p)
	}
	if err != nil {
		return fmt.Errorf("partition %s: %w", p.Name, err)
	}
	return r.file.Sync()
}

// zero writes zeros over a partition, on a file system that cannot punch holes.
func (r *ROM) zero(p flash.Partition) error {
	block := make([]byte, 1<<20)
	for off := int64(0); off < p.Size; off += int64(len(block)) {
		n := min(int64(len(block)), p.Size-off)
		if _, err := r.file.WriteAt(block[:n], p.Offset+off); err != nil {
			return err
		}
	}
	return nil
}
