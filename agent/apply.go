package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/toe-project/toe/control"
)

// step is one part of a change of configuration. A step that failed is
// undone too: it may have got half way.
type step struct {
	what     string // empty for what needs no telling
	do, undo func() error
}

// Apply puts a new configuration into force and returns what it changed. What
// is the same in both is not touched. When a step fails, those before it are
// taken back and the old configuration stays in force.
func (a *Agent) Apply(ctx context.Context, next *control.Config) ([]string, error) {
	if err := next.Validate(); err != nil {
		return nil, err
	}
	a.applying.Lock()
	defer a.applying.Unlock()
	a.mu.Lock()
	now, guarding := a.conf, a.guarding
	a.mu.Unlock()
	if !reflect.DeepEqual(now.Links, next.Links) {
		return nil, errors.New("links: they cannot change while the card runs, a restart of the card does it")
	}
	if !guarding {
		return nil, errors.New("the firewall is not in force yet, try again when the card is healthy")
	}
	steps := a.plan(now, next)
	for i, s := range steps {
		if err := ctx.Err(); err == nil {
			err = s.do()
			if err == nil {
				continue
			}
			return nil, a.takeBack(steps[:i+1], fmt.Errorf("%s: %w", s.what, err))
		}
		return nil, a.takeBack(steps[:i], fmt.Errorf("%s: the caller went away", s.what))
	}
	var what []string
	for _, s := range steps {
		if s.what != "" {
			what = append(what, s.what)
			a.log.Sayf("applied: %s", s.what)
		}
	}
	return what, nil
}

func (a *Agent) takeBack(done []step, cause error) error {
	a.log.Sayf("apply failed: %v", cause)
	for _, s := range slices.Backward(done) {
		if err := s.undo(); err != nil {
			cause = fmt.Errorf("%w (and taking back %s: %w)", cause, s.what, err)
		}
	}
	return cause
}

// plan is the difference of two configurations. The firewall comes before
// the ports: a port that it does not know is closed, not open.
func (a *Agent) plan(now, next *control.Config) []step {
	var steps []step
	if o, n := now.EffectiveHostname(), next.EffectiveHostname(); o != n {
		steps = append(steps, step{
			fmt.Sprintf("host name %s", n),
			func() error { return a.opts.SetHostname(n) },
			func() error { return a.opts.SetHostname(o) },
		})
	}
	if !slices.Equal(now.AuthorizedKeys, next.AuthorizedKeys) {
		steps = append(steps, step{
			fmt.Sprintf("%d authorized keys", len(next.AuthorizedKeys)),
			func() error { return a.ssh.authorize(next.AuthorizedKeys) },
			func() error { return a.ssh.authorize(now.AuthorizedKeys) },
		})
	}
	if o, n := rulesOf(now), rulesOf(next); !o.equal(n) {
		steps = append(steps, step{
			fmt.Sprintf("firewall for ports %v, NAT %v, %d published", n.ports, n.nat, len(n.published)),
			func() error { return a.fire.apply(n) },
			func() error { return a.fire.apply(o) },
		})
	}
	steps = append(steps, a.planPorts(now, next)...)
	steps = append(steps, a.planOffload(now, next)...)
	steps = append(steps, a.planRest(now, next)...)
	return steps
}

// planRest are the steps that cannot fail. The one that makes the new
// configuration the present one is silent and comes last.
func (a *Agent) planRest(now, next *control.Config) []step {
	use := func(c *control.Config) func() error {
		return func() error {
			a.mu.Lock()
			a.conf = c
			a.mu.Unlock()
			a.updateDNS()
			return nil
		}
	}
	var steps []step
	if !slices.Equal(now.TimeServers, next.TimeServers) {
		steps = append(steps, step{
			fmt.Sprintf("time servers %v", next.TimeServers),
			func() error { a.clock.setServers(next.TimeServers); return nil },
			func() error { a.clock.setServers(now.TimeServers); return nil },
		})
	}
	if !reflect.DeepEqual(now, next) {
		what := ""
		if !slices.Equal(now.DNS, next.DNS) || !slices.Equal(now.Search, next.Search) {
			what = fmt.Sprintf("name servers %v, search %v", next.DNS, next.Search)
		}
		steps = append(steps, step{what, use(next), use(now)})
	}
	return steps
}

func (a *Agent) planPorts(now, next *control.Config) []step {
	var steps []step
	for _, o := range now.Ports {
		if portOf(next, o) < 0 {
			steps = append(steps, step{
				"port " + o.Name + " removed",
				func() error { a.removePort(o); return nil },
				func() error { return a.addPort(o) },
			})
		}
	}
	for _, n := range next.Ports {
		i := portOf(now, n)
		if i < 0 {
			steps = append(steps, step{
				"port " + n.Name + " added",
				func() error { return a.addPort(n) },
				func() error { a.removePort(n); return nil },
			})
			continue
		}
		if o := now.Ports[i]; !reflect.DeepEqual(o, n) {
			steps = append(steps, step{
				"port " + n.Name + " changed",
				func() error { return a.changePort(n) },
				func() error { return a.changePort(o) },
			})
		}
	}
	return steps
}

// portOf finds the same port, by name and device, in another configuration.
func portOf(c *control.Config, p control.Port) int {
	return slices.IndexFunc(c.Ports, func(x control.Port) bool { return x.Name == p.Name && x.MAC == p.MAC })
}

func (a *Agent) findPort(conf control.Port) *port {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.ports {
		if w := p.wanted(); w.Name == conf.Name && w.MAC == conf.MAC {
			return p
		}
	}
	return nil
}

func (a *Agent) addPort(conf control.Port) error {
	if a.findPort(conf) != nil {
		return nil
	}
	a.mu.Lock()
	p := a.newPort(conf)
	a.ports = append(a.ports, p)
	a.rankPorts()
	a.mu.Unlock()
	return p.configure(a.run, conf)
}

func (a *Agent) removePort(conf control.Port) {
	p := a.findPort(conf)
	if p == nil {
		return
	}
	p.remove()
	a.mu.Lock()
	a.ports = slices.DeleteFunc(a.ports, func(x *port) bool { return x == p })
	a.mu.Unlock()
	a.updateDNS()
}

func (a *Agent) changePort(conf control.Port) error {
	p := a.findPort(conf)
	if p == nil {
		return a.addPort(conf)
	}
	return p.configure(a.run, conf)
}
