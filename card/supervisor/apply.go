package supervisor

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
)

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
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	changes, err := s.apply(ctx, want)
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	answer(w, http.StatusOK, status.Applied{Changes: changes})
}

// apply gives the running card a new specification. Disk is written after
// the card has agreed, so a refusal leaves everything as it was.
func (s *Supervisor) apply(ctx context.Context, want spec.Spec) ([]string, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	agent, err := s.client()
	if err != nil {
		return nil, err
	}
	want = s.card.Fill(want)
	live, restart := spec.Diff(s.card.Spec, want)
	if len(restart) > 0 {
		return nil, fmt.Errorf("needs the card to be started again: %s", restart[0])
	}
	if len(live) == 0 {
		return []string{}, nil
	}
	next := *s.card
	next.Spec = want
	cfg, err := configOf(&next, s.given, s.image)
	if err != nil {
		return nil, err
	}
	data, err := cfg.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := agent.Apply(ctx, &cardpb.ApplyRequest{Config: data}); err != nil {
		return nil, fmt.Errorf("the card refuses: %w", err)
	}
	if err := next.SaveSpec(); err != nil {
		return nil, err
	}
	// What the agent said last is of before: who asks for the status next
	// hears of the change.
	s.change(func() { s.card.Spec, s.config, s.replied = want, cfg, time.Time{} })
	s.steer(ctx)
	s.event("configuration changed: %s", strings.Join(spec.ChangedKeys(live), ", "))
	return live, nil
}
