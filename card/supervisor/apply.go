package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// applyLimit is how long the card may take to apply a configuration, and servicesLimit the same with
// services that change: their programs may have to be installed first.
const applyLimit, servicesLimit = 30 * time.Second, status.ServicesLimit

func (s *Supervisor) serveApply(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, spec.MaxSize))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	want, err := spec.Parse("card.yaml", data)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	applied, err := s.apply(r.Context(), want, r.FormValue("dry") != "")
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	answer(w, http.StatusOK, applied)
}

// apply gives the running card a new specification. Afterwards card, card.yaml and
// supervisor agree, on the new one or on the old one. With dry it only says what would change.
func (s *Supervisor) apply(ctx context.Context, want spec.Spec, dry bool) (status.Applied, error) {
	out := status.Applied{Changes: []string{}}
	s.applying.Lock()
	defer s.applying.Unlock()
	if _, err := s.client(); err != nil {
		return out, err
	}
	next := s.world.cardNow()
	want = next.Fill(want)
	live, restart := spec.Diff(next.Spec, want)
	if len(restart) > 0 && !dry {
		return out, fmt.Errorf("needs the card to be started again: %s", restart[0])
	}
	next.Spec = want
	cfg, err := configOf(next, s.world.given, s.world.imageNow())
	if err != nil {
		return out, err
	}
	// Files may differ where card.yaml does not: a folder of the administrator's, a secret.
	programs, diff := ServiceChanges(s.world.configNow().Services, cfg.Services)
	out.Diff = diff
	if len(live) == 0 {
		live = programs
	}
	if len(live) == 0 || dry {
		return out, nil
	}
	limit := applyLimit
	if len(programs) > 0 {
		limit = servicesLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := s.configure(ctx, cfg); err != nil {
		return out, err
	}
	if err := next.SaveSpec(); err != nil {
		// If the card does not take the old one now, the next poll tries again.
		return out, errors.Join(err, s.configure(ctx, s.world.configNow()))
	}
	s.world.adopt(want, cfg)
	// What the agent said last is of before: the next status asks again.
	s.board.change(func() { s.board.replied = time.Time{} })
	// The card has it: the host's side follows, also when the client is gone.
	s.world.steer(context.WithoutCancel(ctx))
	s.board.event("configuration changed: %s", strings.Join(spec.ChangedKeys(live), ", "))
	out.Changes = live
	return out, nil
}

// configure applies cfg on the card. If the answer is lost, it asks the card which
// configuration is in force. Called with applying held.
func (s *Supervisor) configure(ctx context.Context, cfg *control.Config) error {
	data, err := cfg.Encode()
	if err != nil {
		return err
	}
	_, err = s.world.agent.Apply(ctx, &cardpb.ApplyRequest{Config: data})
	if err == nil {
		return nil
	}
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), askLimit)
	defer cancel()
	if reply, aerr := s.world.ask(ask); aerr == nil && reply.GetConfiguration().GetDigest() == control.Digest(data) {
		return nil
	}
	return fmt.Errorf("the card refuses: %w", err)
}

// compare checks that the configuration in force on the card is the one that the
// supervisor has for it, and applies that again if not. An older card does not tell.
func (s *Supervisor) compare(ctx context.Context, reply *cardpb.StatusResponse) {
	if !s.differs(reply) || !s.applying.TryLock() {
		return // an apply that is under way changes it
	}
	defer s.applying.Unlock()
	reply, err := s.world.ask(ctx) // again: an apply may have ended in the meantime
	if err != nil || !s.differs(reply) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	if err := s.configure(ctx, s.world.configNow()); err != nil {
		s.board.trouble(configuration, fmt.Sprintf(
			"differs from card.yaml: %v; `toe reset %s` starts the card with it", err, s.card.Name))
		return
	}
	// The card decides how often this happens.
	s.board.deviceEvent(configuration, "differed from card.yaml on the card; it was applied again")
}

// configuration is the component of a card whose configuration differs.
const configuration = "configuration"

func (s *Supervisor) differs(reply *cardpb.StatusResponse) bool {
	has := reply.GetConfiguration().GetDigest()
	data, err := s.world.configNow().Encode()
	differs := err == nil && has != "" && has != control.Digest(data)
	if !differs {
		s.board.trouble(configuration, "")
	}
	return differs
}
