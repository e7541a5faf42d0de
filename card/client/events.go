package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
)

// Events calls f for each event of the card's history, the oldest first, whether the card
// has a supervisor or not. With follow it goes on until the supervisor has ended, or ctx
// has; its error is ErrNotRunning where no supervisor runs, and says so where it was killed.
func Events(ctx context.Context, c *store.Card, follow bool, f func(status.EventLine)) error {
	var last time.Time
	show := func(e status.EventLine) {
		last = e.Time
		f(e)
	}
	err := New(c).events(ctx, follow, show)
	if ctx.Err() != nil || err == nil && !follow || err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	st, lerr := leftBehind(ctx, c, err == nil)
	if lerr != nil {
		return lerr
	}
	for _, e := range st.History {
		if e.Time.After(last) {
			f(status.EventLine{Event: e})
		}
	}
	switch {
	case !follow:
		return nil
	case err == nil && st.Killed:
		return fmt.Errorf("card %s: %s", c.Name, st.Reasons[len(st.Reasons)-1])
	}
	return err
}

// leftBehind is the status of a card whose supervisor does not answer. When it is ending, it
// adds its last events as it ends.
func leftBehind(ctx context.Context, c *store.Card, ending bool) (status.Status, error) {
	if ending {
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		if err := AwaitEnd(ctx, c); err != nil {
			return status.Status{}, err
		}
	}
	return offline(c)
}

// events reads the supervisor's stream to its end. A stream that breaks off ends, too.
func (cl *Client) events(ctx context.Context, follow bool, f func(status.EventLine)) error {
	path := "/events"
	if follow {
		path += "?follow=1"
	}
	resp, err := cl.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var e status.EventLine
		if err := dec.Decode(&e); err != nil {
			return nil
		}
		f(e)
	}
}
