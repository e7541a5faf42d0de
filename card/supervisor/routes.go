package supervisor

import (
	"context"
	"errors"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
)

// steerLimit is how long a change of the host's routes may take.
const steerLimit = 10 * time.Second

// steer makes the host's side of the links fit the card's mode: path MTU, and the
// way back of published services. A failure is a trouble; the card runs with it.
func (w *world) steer(ctx context.Context) {
	w.steering.Lock()
	defer w.steering.Unlock()
	w.steerLocked(ctx)
}

func (w *world) steerLocked(ctx context.Context) {
	if w.gone {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, steerLimit)
	defer cancel()
	want := w.specNow()
	text := ""
	for _, d := range w.links {
		if d.Att.Lock == nil {
			continue
		}
		if err := d.Att.Lock(ctx, want.Endpoint()); err != nil {
			text = err.Error()
		}
	}
	w.board.trouble("path MTU of the link", text)
	w.board.trouble("way back of published services", w.steerBack(&want))
}

// steerBack makes or removes the way back of published services. It returns what is
// wrong, or nothing. Called with steering held.
func (w *world) steerBack(s *spec.Spec) string {
	want := w.links[0].Name == store.LinkDevice && s.PublishesHost()
	switch {
	case want && w.goBack == nil:
		undo, err := w.parts.Network.ReturnRoute(w.links[0].Att.Interface, *w.links[0].addrs)
		if w.goBack = undo; err != nil {
			return err.Error()
		}
	case !want && w.goBack != nil:
		if err := w.goBack(); err != nil {
			return err.Error()
		}
		w.goBack = nil
	}
	return ""
}

// takeDefault sends the host's traffic through the card, if card.yaml says so and
// it was not done before.
func (w *world) takeDefault(ctx context.Context) {
	w.steering.Lock()
	defer w.steering.Unlock()
	if w.gone || w.undo != nil || !w.specNow().Link.DefaultRoute || w.links[0].Name != store.LinkDevice {
		return
	}
	undo, err := w.parts.Network.DefaultRoute(ctx, w.links[0].Att.Interface, *w.links[0].addrs)
	w.undo = undo
	text := ""
	if err != nil {
		text = err.Error()
	}
	w.board.trouble("default route", text)
	w.steerLocked(ctx) // these routes are new
}

// unroute takes back the host's routes, for good.
func (w *world) unroute() error {
	w.steering.Lock()
	defer w.steering.Unlock()
	w.gone = true
	var errs []error
	for _, undo := range []func() error{w.undo, w.goBack} {
		if undo != nil {
			errs = append(errs, undo())
		}
	}
	return errors.Join(errs...)
}

// abort ends the host's connections through an endpoint whose machine has
// ended: their other half is lost. A router's survive.
func (w *world) abort() {
	if s := w.specNow(); !s.Endpoint() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), steerLimit)
	defer cancel()
	for _, d := range w.links {
		if d.Att == nil || d.Att.Abort == nil {
			continue
		}
		if err := d.Att.Abort(ctx); err != nil {
			w.board.event("%s: connections through the card that ended: %v", d.Name, err)
		}
	}
}
