package supervisor

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/toe-project/toe/machine"
)

// lives runs the machine again and again. It returns nil when ctx ended or the
// card powered itself off, and an error when it did not even start once.
func (s *Supervisor) lives(ctx context.Context) error {
	row := 0    // restarts for lives that ended soon
	panics := 0 // of a good slot, in a row
	for reachedOnce := false; ; {
		began := time.Now()
		l := &life{
			limits: &s.parts.Limits, board: s.board, world: s.world, console: s.console,
			restart: s.restart, poll: s.poll,
		}
		reached, err := l.run(ctx)
		again := l.afterTrial(ctx, err) || l.afterPanic(&panics) || ctx.Err() == nil && l.afterRenewal(err)
		reachedOnce = reachedOnce || reached
		switch {
		case ctx.Err() != nil:
			return nil
		case !reachedOnce && err != nil && !again:
			return startError(s.board, s.console, err)
		case err == nil && l.exit.Cause == machine.PoweredOff:
			s.board.event("the card powered itself off")
			return nil
		}
		if l.exit.Cause == machine.Stopped || reached && time.Since(began) > s.parts.Limits.Stable {
			row = 0
		}
		if !reached && l.exit.Cause != machine.Stopped {
			row = max(row, 1) // a machine that did not start is not tried again at once
		}
		if l.failed == nil {
			s.note(l.exit, err)
		}
		if !s.pause(ctx, s.parts.Limits.Backoff[min(row, len(s.parts.Limits.Backoff)-1)]) {
			return nil
		}
		row++
		s.board.change(func() { s.board.restarts++ })
	}
}

// note records why the machine is started again.
func (s *Supervisor) note(exit machine.Exit, err error) {
	switch {
	case err != nil:
		s.board.deviceEvent(machineDevice, "restart failed: %v", err)
	case exit.Cause == machine.Rebooted:
		s.board.deviceEvent(machineDevice, "the card rebooted")
	case exit.Cause == machine.Stopped:
		s.board.event("machine restarted on request")
	default:
		s.board.deviceEvent(machineDevice, "%s; starting it again", exit)
	}
	text := ""
	switch {
	case err != nil:
		text = err.Error() + "; being started again"
	case exit.Cause != machine.Rebooted && exit.Cause != machine.Stopped:
		text = fmt.Sprintf("machine %s; being started again", exit)
	}
	s.board.trouble("machine", text)
}

func (s *Supervisor) pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.restart: // a reset does not wait
		return true
	case <-ctx.Done():
		return false
	}
}

// poll asks the agent of a running card, and touches the lock file: its time is the
// supervisor's last sign of life.
func (s *Supervisor) poll(ctx context.Context) {
	now := time.Now()
	_ = os.Chtimes(s.card.Paths.Lock(), now, now)
	s.world.judgeDisk()
	reply, err := s.world.ask(ctx)
	if err == nil {
		s.board.trouble("agent", "")
		s.compare(ctx, reply)
		return
	}
	if silent := s.board.silence(); ctx.Err() == nil && silent > 2*s.parts.Limits.Poll {
		s.board.trouble("agent", fmt.Sprintf(
			"has not answered for %s; `toe reset %s` starts the card again", silent.Round(time.Second), s.card.Name))
	}
}
