package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// flashName names the card's disk in messages, and its socket.
const flashName = "flash"

// rescueEdition is what a card starts when no slot of its flash can be.
const rescueEdition = "micro"

// flashDisk is the card's flash and what is known of the slot that runs. Its fields are guarded by the
// world's mu; the flash itself is only used between two lives, and for reading.
type flashDisk struct {
	rom    *rom.ROM
	keeper DiskKeeper
	start  rom.Start // of this life
	orders []order   // for the time between this life and the next
}

// order changes the flash while the machine is off, and says what it did.
type order func(*rom.ROM) (status.FirmwareEvent, error)

// openFlash opens the card's flash and serves it, where the card has one.
func (w *world) openFlash(ctx context.Context) (bool, error) {
	if w.parts.Flash == nil {
		return false, nil
	}
	r, err := w.parts.Flash(ctx, w.cardNow(), w.machine.Kind())
	if err != nil || r == nil {
		return false, err
	}
	w.mu.Lock()
	w.flash.rom = r
	w.mu.Unlock()
	keeper, err := w.parts.Disk(Device{Name: flashName, Socket: w.paths.Vhost(flashName)}, r.Path(),
		func(text string) { w.board.deviceEvent(flashName, "%s", text) })
	if err != nil {
		return false, fmt.Errorf("flash: %w", err)
	}
	w.mu.Lock()
	w.flash.keeper = keeper
	w.mu.Unlock()
	w.task(func() {
		if err := keeper.Serve(context.Background()); err != nil && !w.leaving() {
			w.board.event("flash: %v", err)
			w.board.trouble(flashName, fmt.Sprintf("%v; fix: `toe down` and `toe up`", err))
		}
	})
	return true, nil
}

func (w *world) closeFlash() error {
	d := w.flashNow()
	var errs []error
	if d.keeper != nil {
		errs = append(errs, d.keeper.Close())
	}
	if d.rom != nil {
		errs = append(errs, d.rom.Close())
	}
	return errors.Join(errs...)
}

// flashNow is the flash as it is known now; without a ROM the card has none.
func (w *world) flashNow() flashDisk {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flash
}

// order asks for a change of the flash, which is made before the machine starts the next time.
func (w *world) order(o order) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flash.rom == nil {
		return errNoFlash
	}
	w.flash.orders = append(w.flash.orders, o)
	return nil
}

// isOrdered reports whether something waits for the machine to be off.
func (w *world) isOrdered() bool { return len(w.flashNow().orders) > 0 }

// bootSlot carries out the orders, chooses a slot, and makes its image and configuration those of
// the next life. Without a flash it does nothing. The machine is off.
func (w *world) bootSlot(ctx context.Context) error {
	w.mu.Lock()
	r, orders := w.flash.rom, w.flash.orders
	w.flash.orders = nil
	w.mu.Unlock()
	if r == nil {
		return nil
	}
	for _, do := range orders {
		e, err := do(r)
		if err != nil {
			e.Outcome = "failed: " + err.Error()
		}
		w.record(e)
	}
	w.board.setStage("choosing a slot of the flash")
	start, err := r.Boot(ctx, w.hardware())
	if err != nil {
		return fmt.Errorf("flash: %w", err)
	}
	if start.Image == nil && start.Env.ZeroTrust() {
		// The host could log in to the rescue system, and read and write the flash.
		return fmt.Errorf("flash: %s; the rescue system is not started: %w", start.Why, rom.ErrZeroTrust)
	}
	img, err := w.slotImage(ctx, start)
	if err != nil {
		return err
	}
	cfg, err := configOf(w.cardNow(), w.given, img)
	if err != nil {
		return errors.Join(err, img.close())
	}
	w.mu.Lock()
	before := w.image
	w.image, w.config, w.flash.start = img, cfg, start
	w.mu.Unlock()
	w.noteStart(start)
	return before.close()
}

// hardware is what a slot must fit.
func (w *world) hardware() rom.Hardware {
	return rom.Hardware{Machine: string(w.machine.Kind()), Arch: string(w.specNow().Machine.Arch)}
}

// slotImage unpacks the image of the slot, or gives that of the rescue system.
func (w *world) slotImage(ctx context.Context, start rom.Start) (Image, error) {
	if start.Image == nil {
		img, err := w.parts.Image(ctx, rescueEdition, w.machine.Kind())
		if err != nil {
			return Image{}, fmt.Errorf("%s; the rescue system: %w", start.Why, err)
		}
		img.Rescue = start.Why
		return img, nil
	}
	files, err := start.Image.Files(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("slot %s: %w", start.Slot, err)
	}
	m := start.Image.Manifest
	return Image{
		Edition: string(m.Edition), Version: m.Version, KernelVersion: m.Kernel, Digest: start.Image.Digest(),
		AgentVersion: m.Agent.Version, AgentSHA256: m.Agent.SHA256,
		Kernel: files.Kernel, Initrd: files.Initrd, InUse: files, Slot: string(start.Slot),
	}, nil
}

func (img Image) close() error {
	if img.InUse == nil {
		return nil
	}
	return img.InUse.Close()
}

// slotArgs are the kernel arguments that name the slot: RAUC and the agent read rauc.slot, and the
// agent mounts root.
func (d flashDisk) slotArgs() string {
	if d.rom == nil || d.start.Image == nil {
		return ""
	}
	return fmt.Sprintf("root=PARTLABEL=%s rauc.slot=%s", d.start.Slot.Root(), d.start.Slot)
}

// disks are those of the machine.
func (w *world) disks() []machine.Disk {
	if w.flashNow().keeper == nil {
		return nil
	}
	return []machine.Disk{{Name: flashName, Socket: w.paths.Vhost(flashName)}}
}

// noteStart records a start that is news: of another slot than the one before, or of the rescue system.
func (w *world) noteStart(s rom.Start) {
	trouble := ""
	if s.Image == nil {
		trouble = fmt.Sprintf("the rescue system runs: %s; `toe firmware status %s` shows the slots", s.Why, w.name)
	}
	w.board.trouble("firmware", trouble)
	if !s.Switched {
		return
	}
	e := status.FirmwareEvent{Who: "supervisor", What: "started", Slot: string(s.Slot), Why: s.Why}
	order := s.Env.Order()
	switch {
	case s.Image == nil:
		e.What, e.Outcome = "rescue", "the rescue system runs"
		w.board.event("firmware: the rescue system is started: %s", s.Why)
	case s.From != "" && len(order) > 0 && order[0] != s.Slot:
		e.What, e.Outcome = "fell-back", fmt.Sprintf("slot %s runs again", s.Slot)
		w.board.event("firmware: back from slot %s to slot %s: %s", s.From, s.Slot, w.lastFailure(s.From, s.Why))
		e.Why = w.lastFailure(s.From, s.Why)
	default:
		w.board.event("firmware: slot %s is started: %s", s.Slot, s.Why)
	}
	if s.Image != nil {
		e.Version = s.Image.Version
	}
	w.record(e)
}

// lastFailure is why a slot was given up: the rules' reason, and what failed in its last life.
func (w *world) lastFailure(s flash.Slot, why string) string {
	events, _, _ := rom.History(w.paths)
	for _, e := range slices.Backward(events) {
		if e.What == "failed" && e.Slot == string(s) {
			return fmt.Sprintf("%s; the last failure of slot %s: %s", why, s, e.Why)
		}
	}
	return why
}

// record appends to the firmware history. A disk that is full must not stop a card.
func (w *world) record(e status.FirmwareEvent) {
	e.Time = time.Now()
	if err := rom.Record(w.paths, e); err != nil {
		w.board.event("firmware history: %v", err)
	}
}

// slotReason returns what the agent says of the slot that it runs.
func slotReason(reply *cardpb.StatusResponse) *cardpb.Reason {
	for _, r := range reply.GetComponents() {
		if r.Component == "slot" {
			return r
		}
	}
	return nil
}
