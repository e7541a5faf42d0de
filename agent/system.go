package agent

import (
	"context"

	"github.com/toe-project/toe/control"
)

// systemPart sets the host name and the kernel's settings.
type systemPart struct {
	idle
	*env
}

func (s *systemPart) start(context.Context) {
	name := s.config().EffectiveHostname()
	if err := s.opts.SetHostname(name); err != nil {
		s.log.Sayf("host name %s: %v", name, err)
	}
	s.sys.late(memory().total)
}

func (s *systemPart) plan(now, next *control.Config) ([]step, error) {
	o, n := now.EffectiveHostname(), next.EffectiveHostname()
	if o == n {
		return nil, nil
	}
	return []step{{
		"host name " + n,
		func() error { return s.opts.SetHostname(n) },
		func() error { return s.opts.SetHostname(o) },
	}}, nil
}
