package update

import (
	"context"
	"fmt"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control/cardpb"
)

// Renew starts a running card without a flash with the newest image of the host's cache, and waits until
// it is as healthy as it was. Its links stay. Where the card has that image already, Started is false.
// Errors: ErrReverted, client.ErrNotRunning.
func Renew(ctx context.Context, c *store.Card, o Options) (_ *Result, err error) {
	s, before, err := begin(ctx, c, o)
	if err != nil {
		return nil, err
	}
	defer s.agent.Close()
	if o.WhenIdle > 0 {
		if err := s.awaitIdle(ctx); err != nil {
			return nil, err
		}
	}
	stage := o.Progress.Stage("starting the newest image", 0)
	defer func() { stage.Fail(err) }()
	ctx, cancel := context.WithTimeout(ctx, switchLimit)
	defer cancel()
	old, err := s.agent.Status(ctx, &cardpb.StatusRequest{})
	if err != nil {
		return nil, err
	}
	end := watchOutage(ctx, s.answers)
	to, err := s.super.Renew(ctx, o.Who)
	r := &Result{Name: c.Name, Version: to.To}
	if err != nil || !to.Changed {
		end()
		if err == nil {
			stage.Done(to.To + " runs already")
		}
		return r, err
	}
	_, err = s.awaitSettled(ctx, old.BootId, before, stage.Note, func(st status.Status, restarted bool) (bool, error) {
		return renewed(st, to, restarted)
	})
	r.Outage = end().Duration.Seconds()
	if err != nil {
		return nil, fmt.Errorf("card %s: waiting for firmware %s to become healthy: %w; see `toe firmware history %[1]s`",
			c.Name, to.To, err)
	}
	r.Started = true
	stage.Done(fmt.Sprintf("%s, no answer for %.2f s", to.To, r.Outage))
	return r, nil
}

// renewed judges the status of a card that is to run another image.
func renewed(st status.Status, to status.Renewed, restarted bool) (done bool, err error) {
	switch st.State {
	case status.Failed, status.Stopped:
		return true, fmt.Errorf("it is %s", st.State)
	case status.Healthy, status.Degraded:
	default:
		return false, nil
	}
	if restarted && st.Firmware.Version == to.From {
		return true, fmt.Errorf("%w, %s", errImageBack, to.From)
	}
	return restarted, nil
}
