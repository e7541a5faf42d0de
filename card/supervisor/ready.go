package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/toe-project/toe/hostnet/firewall"
)

// awaitReady waits until the agent answers over the link and a packet of full
// size comes back, within the limit of this kind of machine.
func (l *life) awaitReady(ctx context.Context) error {
	limit := l.limits.Start[l.world.machine.Kind()]
	began := time.Now()
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	wctx, giveUp := context.WithCancelCause(wctx)
	defer giveUp(nil)
	go l.suspectFirewall(wctx, l.world.firstAttachment().Blocked, giveUp)
	for _, step := range []struct {
		stage string
		try   func(context.Context) error
	}{
		{booting, l.ask},
		{"waiting for the link to pass a packet of 65535 bytes", l.world.ping},
	} {
		l.board.setStage(step.stage)
		if err := l.insist(wctx, step.try); err != nil {
			if d := (*firewall.Dropped)(nil); errors.As(context.Cause(wctx), &d) {
				return fmt.Errorf("%w; fix: %s", d, d.Fix())
			}
			if ctx.Err() == nil && wctx.Err() != nil {
				err = fmt.Errorf("not done after %s (%w)", time.Since(began).Round(time.Second), err)
			}
			return err
		}
	}
	return l.settle(ctx)
}

// suspectFirewall looks at the host's firewall when the agent has not answered
// for a while, and gives the wait up where it drops the link's packets.
func (l *life) suspectFirewall(
	ctx context.Context, blocked func(context.Context) error, giveUp context.CancelCauseFunc,
) {
	if blocked == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(l.limits.Suspect):
	}
	var dropped *firewall.Dropped
	for range 2 { // a busy host can be late once
		if err := blocked(ctx); !errors.As(err, &dropped) {
			return
		}
	}
	giveUp(dropped)
}

func (l *life) ask(ctx context.Context) error {
	_, err := l.world.ask(ctx)
	return err
}

// insist tries until it succeeds, the machine ends, a reset is asked for or ctx
// ends. The error then is that of the last try.
func (l *life) insist(ctx context.Context, try func(context.Context) error) error {
	for wait := l.limits.Knock; ; wait = min(wait*11/10, 250*time.Millisecond) {
		err := l.attempt(ctx, try)
		if err == nil || errors.Is(err, errEnded) || errors.Is(err, errReset) || errors.Is(err, errTrial) {
			return err
		}
		select {
		case <-l.inst.Done():
			return errEnded
		case <-l.restart:
			return errReset
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// attempt is one try. The end of the machine and a reset cancel it.
func (l *life) attempt(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tried := make(chan error, 1)
	go func() { tried <- try(ctx) }()
	why := errEnded
	select {
	case err := <-tried:
		return err
	case <-l.inst.Done():
	case <-l.restart:
		why = errReset
	}
	cancel()
	<-tried
	return why
}

// verdictStands is how long a card must be degraded, with nothing under way that
// could change it, to count as degraded.
const verdictStands = time.Second

// settle gives a card whose ports are still getting their addresses some time
// before it is called degraded. It fails when a reset is asked for, and when a slot on trial has failed.
func (l *life) settle(ctx context.Context) error {
	l.board.setStage("addresses and health")
	ctx, cancel := context.WithTimeout(ctx, l.patience(l.limits.Settle))
	defer cancel()
	var since time.Time // of a verdict that may be the last one
	err := l.insist(ctx, func(ctx context.Context) error {
		if l.failed = l.judge(); l.failed != nil {
			return errTrial
		}
		if err := l.ask(ctx); err != nil {
			return err
		}
		healthy, pending := l.board.verdict()
		switch {
		case healthy:
			return nil
		case pending || since.IsZero():
			since = time.Now()
		case time.Since(since) > verdictStands:
			return nil
		}
		return errors.New("not settled")
	})
	if errors.Is(err, errReset) || errors.Is(err, errTrial) {
		return err
	}
	return nil
}
