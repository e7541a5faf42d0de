package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// Status returns how the card is, whether it has a supervisor or not.
func Status(ctx context.Context, c *store.Card) (status.Status, error) {
	st, err := New(c).Status(ctx, 0)
	if err == nil || !errors.Is(err, ErrNotRunning) {
		return st, err
	}
	return offline(c)
}

// offline is the status of a card whose supervisor does not answer.
func offline(c *store.Card) (status.Status, error) {
	st := c.Stopped()
	pid, held, err := flock.Owner(c.Paths.Lock())
	if err != nil {
		return st, err
	}
	if held {
		st.State, st.Supervisor.PID = status.Starting, pid
		st.Reasons = append(st.Reasons, fmt.Sprintf("supervisor %d is starting or ending", pid))
		return st, nil
	}
	var l status.Last
	if err := atomicfile.ReadJSON(c.Paths.Last(), &l); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return st, err
	}
	st.State, st.Reasons = l.State, append(st.Reasons, l.Reasons...)
	st.History = append(st.History, l.History...)
	if l.State == status.Running {
		st.Killed = true
		st.State, st.Reasons = killed(c, l)
	}
	return st, nil
}

// killed returns the state of a card whose supervisor was killed.
func killed(c *store.Card, l status.Last) (status.State, []string) {
	if l.Boot != store.BootID() {
		text := fmt.Sprintf("the host was restarted while the card ran; `toe up %s` starts it again", c.Name)
		return status.Stopped, []string{text}
	}
	when := l.Time
	if t, ok := store.ModTime(c.Paths.Lock()); ok && t.After(when) {
		when = t // its last sign of life
	}
	text := fmt.Sprintf("supervisor (pid %d) was killed, last seen alive at %s; `toe up %s` starts it again",
		l.PID, when.Format(time.TimeOnly), c.Name)
	return status.Failed, []string{text}
}

// AwaitEnd waits until no supervisor holds the card.
func AwaitEnd(ctx context.Context, c *store.Card) error {
	for {
		pid, held, err := flock.Owner(c.Paths.Lock())
		if err != nil || !held {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("card %s: supervisor %d has not ended: %w", c.Name, pid, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
