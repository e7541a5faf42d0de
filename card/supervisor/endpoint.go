package supervisor

import (
	"context"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
)

// steerLimit is how long a change of the host's routes may take.
const steerLimit = 10 * time.Second

// steer makes the host's side of the links fit the card's mode: path MTU, and
// the way back of published services. What fails is told, and the card works
// as far as it goes.
func (s *Supervisor) steer(ctx context.Context) {
	s.steering.Lock()
	defer s.steering.Unlock()
	ctx, cancel := context.WithTimeout(ctx, steerLimit)
	defer cancel()
	spec := s.specNow()
	text := ""
	for _, d := range s.links {
		if d.Att.Lock == nil {
			continue
		}
		if err := d.Att.Lock(ctx, spec.Endpoint()); err != nil {
			text = err.Error()
		}
	}
	s.trouble("path MTU of the link", text)
	s.trouble("way back of published services", s.steerBack(&spec))
}

func (s *Supervisor) specNow() spec.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.card.Spec
}

// steerBack says what is wrong, or nothing.
func (s *Supervisor) steerBack(spec *spec.Spec) string {
	want := s.links[0].Name == store.LinkDevice && spec.PublishesHost()
	switch {
	case want && s.goBack == nil:
		undo, err := s.parts.Network.ReturnRoute(s.links[0].Att.Interface, *s.links[0].addrs)
		if s.goBack = undo; err != nil {
			return err.Error()
		}
	case !want && s.goBack != nil:
		if err := s.goBack(); err != nil {
			return err.Error()
		}
		s.goBack = nil
	}
	return ""
}

// Abort ends the host's connections through an endpoint whose machine has
// ended: their other half is lost. A router's survive.
func (s *Supervisor) abort() {
	if spec := s.specNow(); !spec.Endpoint() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), steerLimit)
	defer cancel()
	for _, d := range s.links {
		if d.Att == nil || d.Att.Abort == nil {
			continue
		}
		if err := d.Att.Abort(ctx); err != nil {
			s.event("%s: connections through the card that ended: %v", d.Name, err)
		}
	}
}
