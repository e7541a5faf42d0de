package supervisor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// A slot on trial has to become healthy. The card's agent decides that: it makes the checks, and marks
// the slot good in the boot environment, where the supervisor sees it. The supervisor ends a
// life on trial whose agent says that a check failed, that does not answer, or that takes too long.

// judge looks at a slot on trial. It returns the failure that ends this life, if there is one.
func (l *life) judge() *status.FirmwareEvent {
	w := l.world
	d := w.flashNow()
	if d.rom == nil || !d.start.Trial {
		return nil
	}
	if good, err := d.rom.IsGood(d.start); good {
		w.passed()
		return nil
	} else if err != nil {
		return l.failure("the flash cannot be read: "+err.Error(), nil)
	}
	l.board.mu.Lock()
	reply, silent := l.board.reply, time.Since(l.board.replied)
	if l.board.replied.IsZero() || l.board.phase == status.Starting {
		silent = 0 // an apply wants it asked again; a start has a limit of its own
	}
	l.board.mu.Unlock()
	r := slotReason(reply)
	limit := l.limits.Start[w.machine.Kind()] + w.healthLimit()
	switch {
	case r != nil && r.State == cardpb.Health_HEALTH_DEGRADED:
		return l.failure("a health check failed: "+firstLine(r.Detail), r)
	case reply != nil && silent > l.limits.Hang:
		return l.failure(fmt.Sprintf("the agent has not answered for %s", silent.Round(time.Second)), nil)
	case time.Since(l.powered) > limit:
		return l.failure(fmt.Sprintf("not healthy within %s", limit), r)
	}
	return nil
}

// passed notes that the slot is on trial no longer.
func (w *world) passed() {
	w.mu.Lock()
	start := w.flash.start
	w.flash.start.Trial = false
	w.mu.Unlock()
	w.board.event("firmware: slot %s is healthy, and good from now on", start.Slot)
	w.record(status.FirmwareEvent{
		Who: "card", What: "good", Slot: string(start.Slot), Version: start.Image.Version,
		Why: "all health checks passed", Outcome: "the slot is kept",
	})
}

// failure is a life on trial that ends without a good slot.
func (l *life) failure(why string, r *cardpb.Reason) *status.FirmwareEvent {
	start := l.world.flashNow().start
	e := &status.FirmwareEvent{
		Who: "supervisor", What: "failed", Slot: string(start.Slot), Version: start.Image.Version, Why: why,
		Outcome: fmt.Sprintf("%d attempts left", start.Env.Left(start.Slot)),
	}
	if r != nil {
		// The agent says: check NAME: what is wrong, and the lines of its output.
		head, output, _ := strings.Cut(r.Detail, control.LineBreak)
		e.Check, _, _ = strings.Cut(head, ":")
		e.Output = strings.ReplaceAll(output, control.LineBreak, "\n")
	}
	return e
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, control.LineBreak)
	return line
}

// afterTrial settles what a life on trial that has ended means for its slot. It reports whether the
// slot may be started again or another one be chosen: the card does not give up.
func (l *life) afterTrial(ctx context.Context, lifeErr error) bool {
	w := l.world
	d := w.flashNow()
	if d.rom == nil || !d.start.Trial || !l.booted {
		return false
	}
	if l.inst == nil { // the host could not start the machine: that is not the slot's fault
		_, err := d.rom.GiveBack(d.start)
		if err != nil {
			w.board.event("firmware: %v", err)
		}
		return false
	}
	if good, err := d.rom.IsGood(d.start); err == nil && good {
		w.passed() // just before its end
		return true
	}
	failed := l.failed
	asked := ctx.Err() != nil || failed == nil && (l.exit.Cause == machine.Stopped || l.exit.Cause == machine.PoweredOff)
	if failed == nil && (asked || d.rom.HasBack(d.start)) {
		back, err := d.rom.GiveBack(d.start)
		if err != nil {
			w.board.event("firmware: %v", err)
		}
		if back {
			w.board.event("firmware: slot %s was ended on request; the attempt does not count", d.start.Slot)
			return true
		}
	}
	if failed == nil {
		why := string(l.exit.Cause)
		if l.exit.Cause == machine.Rebooted {
			why = "the card rebooted before it was healthy"
		} else if l.exit.Detail != "" {
			why = l.exit.String()
		}
		if lifeErr != nil {
			why = lifeErr.Error()
		}
		failed = l.failure(why, nil)
	}
	failed.Console = l.console.tail(store.TailBytes)
	w.board.event("firmware: slot %s failed: %s; %s", failed.Slot, failed.Why, failed.Outcome)
	w.record(*failed)
	return true
}

// maxPanics is how many quick panics in a row make a good slot bad.
const maxPanics = flash.Attempts

// afterPanic counts in panics the lives in a row of a good slot that ended in a panic soon after power
// on, and passes the slot over after maxPanics of them: the other slot is started, or the rescue system.
// A power cycle, a kill or a reboot counts for nothing. It reports whether the card does not give up.
func (l *life) afterPanic(panics *int) bool {
	w := l.world
	d := w.flashNow()
	if d.rom == nil || l.inst == nil || d.start.Image == nil || d.start.Trial {
		return false
	}
	if time.Since(l.powered) > l.limits.Start[w.machine.Kind()]+w.healthLimit() {
		*panics = 0
		return false
	}
	if l.exit.Cause != machine.Panicked {
		return false
	}
	if *panics++; *panics < maxPanics {
		return true
	}
	failed := l.failure(fmt.Sprintf("%d panics in a row soon after power on, the last one: %s", *panics, l.exit), nil)
	failed.Outcome, failed.Console = "the slot is bad", l.console.tail(store.TailBytes)
	if err := d.rom.Condemn(d.start); err != nil {
		failed.Outcome = "failed: " + err.Error()
	}
	*panics = 0
	w.board.event("firmware: slot %s failed: %s; %s", failed.Slot, failed.Why, failed.Outcome)
	w.record(*failed)
	return true
}

// healthLimit is how long a slot on trial may take to become healthy.
func (w *world) healthLimit() time.Duration {
	return time.Duration(w.specNow().Firmware.HealthLimit) * time.Second
}
