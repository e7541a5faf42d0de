package update

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
)

const (
	// switchLimit bounds a restart until the card is healthy, or has gone back. A slot that is not
	// healthy is tried several times. Debian on QEMU without KVM takes two minutes a time.
	switchLimit = 15 * time.Minute
	// quiet is how long the link must have carried nothing but what keeps a connection alive.
	quiet = 3 * time.Second
	// rebootPause is between a restart whose answer was lost and the question whether the card is there.
	rebootPause  = 2 * time.Second
	quietPackets = 20 // a second; the questions of this wait take some ten
)

// switchOver restarts the card into the slot that was installed and waits for the outcome.
func (s *session) switchOver(ctx context.Context, before status.Status, r *Result) (err error) {
	if s.o.WhenIdle > 0 {
		if err := s.awaitIdle(ctx); err != nil {
			return fmt.Errorf("%w; slot %s is installed, `toe reset` starts it", err, r.Slot)
		}
	}
	stage := s.o.Progress.Stage("starting slot "+r.Slot, 0)
	defer func() { stage.Fail(err) }()
	ctx, cancel := context.WithTimeout(ctx, switchLimit)
	defer cancel()
	end := watchOutage(ctx, s.answers)
	old, err := s.agent.Status(ctx, &cardpb.StatusRequest{})
	if err == nil {
		err = s.reboot(ctx, old.BootId)
	}
	if err != nil {
		end()
		return fmt.Errorf("card %s: restart into slot %s: %w; the slot is installed, `toe reset %[1]s` starts it",
			s.card.Name, r.Slot, err)
	}
	after, err := s.awaitSettled(ctx, old.BootId, before, stage.Note, func(st status.Status, restarted bool) (bool, error) {
		return outcome(st, r.Slot, restarted)
	})
	r.Outage = end().Duration.Seconds()
	if err != nil {
		return fmt.Errorf("card %s: waiting for slot %s to become healthy: %w; see `toe firmware history %[1]s`",
			s.card.Name, r.Slot, err)
	}
	r.Version = after.Firmware.Version
	r.Started = true
	stage.Done(fmt.Sprintf("healthy, no answer for %.2f s", r.Outage))
	return nil
}

// reboot asks for a restart. The card may be gone before its answer is here, which is no error: a busy
// host was seen to read the end of the connection first.
func (s *session) reboot(ctx context.Context, boot string) error {
	var err error
	for range 3 {
		_, err = s.agent.Reboot(ctx, &cardpb.RebootRequest{})
		if connect.CodeOf(err) != connect.CodeUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rebootPause):
		}
		once, cancel := context.WithTimeout(ctx, rebootPause)
		st, serr := s.agent.Status(once, &cardpb.StatusRequest{})
		cancel()
		if serr != nil || st.BootId != boot {
			return nil
		}
	}
	return err
}

// answers is a probe: the card takes a connection over the link.
func (s *session) answers(ctx context.Context) error {
	conn, err := s.dial(ctx, "", "")
	if err == nil {
		err = conn.Close()
	}
	return err
}

// awaitSettled waits for the outcome, as settled judges it. Boot is the life before the restart.
func (s *session) awaitSettled(
	ctx context.Context, boot string, before status.Status, note func(string),
	settled func(st status.Status, restarted bool) (bool, error),
) (status.Status, error) {
	restarted := false
	for seq := before.Sequence; ; {
		st, err := s.super.Status(ctx, seq)
		if err != nil {
			return st, err
		}
		seq = st.Sequence
		note(string(st.State) + " " + st.Stage)
		// A status that was read before the card answered from another life may be of the old one.
		if done, err := settled(st, restarted); done || err != nil {
			return st, err
		}
		if !restarted {
			now, err := s.agent.Status(ctx, &cardpb.StatusRequest{})
			restarted = err == nil && now.BootId != boot
		}
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// outcome judges the status of a card that is to run slot. A slot on trial has no outcome yet.
func outcome(st status.Status, slot string, restarted bool) (done bool, err error) {
	switch st.State {
	case status.Failed, status.Stopped:
		return true, fmt.Errorf("it is %s", st.State)
	case status.Healthy, status.Degraded:
	default:
		return false, nil
	}
	if !restarted {
		return false, nil
	}
	if st.Firmware.Slot == "" {
		return true, fmt.Errorf("%w: it runs the rescue system", ErrReverted)
	}
	if st.Firmware.Slot != slot {
		return true, fmt.Errorf("%w %s", errSlotBack, st.Firmware.Slot)
	}
	return !st.Firmware.Trial, nil // a port may be degraded as it was before
}

// awaitIdle waits for a moment in which the link carries next to nothing.
func (s *session) awaitIdle(ctx context.Context) (err error) {
	stage := s.o.Progress.Stage("waiting for a quiet moment of the link", 0)
	defer func() { stage.Fail(err) }()
	ctx, cancel := context.WithTimeout(ctx, s.o.WhenIdle)
	defer cancel()
	since, last := time.Now(), int64(-1)
	for at := since; ; {
		n, err := s.packets(ctx)
		if err != nil {
			return s.busy(ctx, err)
		}
		now := time.Now()
		rate := float64(n-last) / now.Sub(at).Seconds()
		if last < 0 || rate > quietPackets {
			since = now
		}
		if now.Sub(since) >= quiet {
			stage.Done("")
			return nil
		}
		stage.Note(fmt.Sprintf("%.0f packets a second", max(rate, 0)))
		last, at = n, now
		select {
		case <-ctx.Done():
			return s.busy(ctx, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

func (s *session) busy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("the link was busy for %s: %w", s.o.WhenIdle, ctx.Err())
	}
	return fmt.Errorf("card %s: %w; it was not restarted", s.card.Name, err)
}

// packets counts what has crossed the card's links, less what the questions themselves take.
func (s *session) packets(ctx context.Context) (int64, error) {
	st, err := s.super.Status(ctx, 0)
	if err != nil {
		return 0, err
	}
	var n int64
	links := []status.Link{st.Link}
	if st.Exec != nil {
		links = append(links, *st.Exec)
	}
	for _, l := range links {
		for _, q := range l.Queues {
			n += int64(q.ToCard.Packets + q.ToHost.Packets)
		}
	}
	return n, nil
}
