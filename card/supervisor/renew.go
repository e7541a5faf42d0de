package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/machine"
)

// A card without a flash takes a newer image of the host's cache while its links stay. The new image is
// on trial for one life: where the card does not become as healthy as it was, the one before is started
// again.

// renewal is a change of the image. Guarded by the world's mu.
type renewal struct {
	who     string
	next    *Image // to be started
	before  *Image // to go back to while the running one is on trial
	healthy bool   // the card was, with the one before
}

// serveRenew has the newest image of the cache started.
func (s *Supervisor) serveRenew(w http.ResponseWriter, r *http.Request) {
	to, err := s.world.newImage(r.Context(), r.FormValue("who"))
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	if to.Changed {
		s.startAgain()
	}
	answer(w, http.StatusAccepted, to)
}

var (
	errHasSlots = errors.New("the card has a flash with slots: `toe firmware install` updates it")
	errRenewing = errors.New("an update is under way")
)

// newImage brings the newest image, and keeps it for the next start where it is another one.
func (w *world) newImage(ctx context.Context, who string) (status.Renewed, error) {
	if w.flashNow().rom != nil {
		return status.Renewed{}, errHasSlots
	}
	healthy, _ := w.board.verdict()
	img, err := w.parts.Image(ctx, w.specNow().Firmware.Edition, w.machine.Kind())
	if err != nil {
		return status.Renewed{}, fmt.Errorf("firmware: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	to := status.Renewed{From: w.image.Version, To: img.Version, Changed: img.Digest != w.image.Digest}
	switch {
	case w.renewal.next != nil || w.renewal.before != nil:
		return to, errors.Join(errRenewing, img.close())
	case !to.Changed:
		return to, img.close()
	}
	w.renewal = renewal{who: who, next: &img, healthy: healthy}
	return to, nil
}

// changeImage makes the image that waits that of the next life.
func (w *world) changeImage() error {
	w.mu.Lock()
	next, who := w.renewal.next, w.renewal.who
	w.mu.Unlock()
	if next == nil {
		return nil
	}
	cfg, err := configOf(w.cardNow(), w.given, *next)
	if err != nil {
		return err
	}
	w.mu.Lock()
	before := w.image
	w.renewal.before, w.renewal.next = &before, nil
	w.image, w.config = *next, cfg
	w.mu.Unlock()
	w.board.event("firmware: %s is started", next.Version)
	w.record(status.FirmwareEvent{Who: who, What: "started", Version: next.Version, Why: "asked for: the newest image"})
	return nil
}

// keepImage settles whether the image that runs is kept: the card has become as healthy as it was.
func (w *world) keepImage() bool {
	healthy, _ := w.board.verdict()
	w.mu.Lock()
	r, img := w.renewal, w.image
	keep := healthy || !r.healthy || r.before == nil
	if keep {
		w.renewal.before = nil
	}
	w.mu.Unlock()
	if keep && r.before != nil {
		w.record(status.FirmwareEvent{
			Who: "supervisor", What: "good", Version: img.Version, Why: "the card is as healthy as it was", Outcome: "the image is kept",
		})
		_ = r.before.close()
	}
	return keep
}

// undoImage goes back to the image before, after a life that did not keep the new one. It reports
// whether it did.
func (w *world) undoImage(why, console string) bool {
	w.mu.Lock()
	before, failed := w.renewal.before, w.image
	w.mu.Unlock()
	if before == nil {
		return false
	}
	cfg, err := configOf(w.cardNow(), w.given, *before)
	if err != nil {
		w.board.event("firmware: %v", err)
		return false
	}
	w.mu.Lock()
	w.renewal.before, w.image, w.config = nil, *before, cfg
	w.mu.Unlock()
	_ = failed.close()
	w.board.event("firmware: back from %s to %s: %s", failed.Version, before.Version, why)
	w.record(status.FirmwareEvent{
		Who: "supervisor", What: "fell-back", Version: before.Version, Why: failed.Version + ": " + why,
		Outcome: "the image before runs again", Console: console,
	})
	return true
}

// closeRenewal gives up what a renewal under way holds.
func (w *world) closeRenewal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, img := range []*Image{w.renewal.next, w.renewal.before} {
		if img != nil {
			errs = append(errs, img.close())
		}
	}
	w.renewal = renewal{}
	return errors.Join(errs...)
}

// afterRenewal goes back to the image before where the life that has ended did not keep the new one.
func (l *life) afterRenewal(err error) bool {
	why := "the card is not healthy, as it was before: " + l.board.fault()
	switch {
	case err != nil:
		why = err.Error()
	case l.exit.Cause != machine.Stopped:
		why = l.exit.String()
	}
	return l.world.undoImage(why, l.console.tail(store.TailBytes))
}
