package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/toe-project/toe/control"
)

// step is one change that a part makes. undo is called for a step that failed,
// too: it may have got half way.
type step struct {
	what     string // for a person
	do, undo func() error
}

// Apply puts a new configuration into force and returns what it changed. It is
// a transaction: first every part plans, which changes nothing; then the steps
// are done in order. When a step fails, it and those before it are undone in
// reverse order, and the old configuration stays in force. What is the same in
// both configurations is not touched.
func (a *Agent) Apply(ctx context.Context, next *control.Config) ([]string, error) {
	if err := next.Validate(); err != nil {
		return nil, err
	}
	a.applying.Lock()
	defer a.applying.Unlock()
	if a.run.Err() != nil {
		return nil, errors.New("the card is shutting down")
	}
	steps, err := a.plan(a.config(), next)
	if err != nil {
		return nil, err
	}
	if err := a.do(ctx, steps); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.conf, a.torn = next, nil
	a.mu.Unlock()
	var what []string
	for _, s := range steps {
		what = append(what, s.what)
		a.log.Sayf("applied: %s", s.what)
	}
	return what, nil
}

// plan gathers the steps of all parts.
func (a *Agent) plan(now, next *control.Config) ([]step, error) {
	var steps []step
	for _, p := range a.parts {
		more, err := p.plan(now, next)
		if err != nil {
			return nil, err
		}
		steps = append(steps, more...)
	}
	return steps, nil
}

func (a *Agent) do(ctx context.Context, steps []step) error {
	for i, s := range steps {
		if ctx.Err() != nil {
			return a.undo(steps[:i], fmt.Errorf("%s: the caller went away", s.what))
		}
		if err := s.do(); err != nil {
			return a.undo(steps[:i+1], fmt.Errorf("%s: %w", s.what, err))
		}
	}
	return nil
}

// undo takes steps back. If that fails, the card is between two configurations
// until the next change succeeds, and reports it.
func (a *Agent) undo(done []step, cause error) error {
	a.log.Sayf("apply failed: %v", cause)
	var torn error
	for _, s := range slices.Backward(done) {
		if err := s.undo(); err != nil {
			torn = errors.Join(torn, fmt.Errorf("undo %s: %w", s.what, err))
		}
	}
	if torn == nil {
		return cause
	}
	a.log.Sayf("the old configuration is not whole: %v", torn)
	a.mu.Lock()
	a.torn = torn
	a.mu.Unlock()
	return fmt.Errorf("%w (and the old configuration is not whole: %w)", cause, torn)
}
