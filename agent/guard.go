package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/toe-project/toe/control"
)

// firewallPart keeps the rules that all parts together ask for in force.
type firewallPart struct {
	idle
	*env
	kernel firewall

	mu    sync.Mutex // guards what follows
	ready bool       // the rules stand, so ports may be up
	err   error      // why they do not
}

// stands reports whether the rules are in force.
func (f *firewallPart) stands() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

// start returns when the rules are in force: what comes after depends on them.
func (f *firewallPart) start(ctx context.Context) {
	for pause := 100 * time.Millisecond; !f.begin(); pause = min(2*pause, 5*time.Second) {
		if !sleep(ctx, pause) {
			return
		}
	}
}

// begin puts the rules of the configuration in force, once.
func (f *firewallPart) begin() bool {
	f.applying.Lock()
	defer f.applying.Unlock()
	r := f.rulesOf(f.config())
	err := f.kernel.apply(r)
	f.mu.Lock()
	first := f.err == nil
	f.err, f.ready = err, err == nil
	f.mu.Unlock()
	if err == nil {
		f.log.Printf("firewall in force, %d ports behind it", len(r.ports))
	} else if first {
		f.log.Sayf("firewall: %v; ports stay down without it", err)
	}
	return err == nil
}

// rulesOf asks every part.
func (e *env) rulesOf(c *control.Config) rules {
	var r rules
	for _, p := range e.parts {
		p.rules(c, &r)
	}
	return r
}

func (f *firewallPart) rules(c *control.Config, r *rules) { r.nat = c.NAT }

func (f *firewallPart) plan(now, next *control.Config) ([]step, error) {
	if !f.stands() {
		return nil, errors.New("the firewall is not in force yet; try again when the card is healthy")
	}
	o, n := f.rulesOf(now), f.rulesOf(next)
	if o.equal(n) {
		return nil, nil
	}
	return []step{{
		fmt.Sprintf("firewall for ports %v, NAT %v, %d published", n.ports, n.nat, len(n.published)),
		func() error { return f.kernel.apply(n) },
		func() error { return f.kernel.apply(o) },
	}}, nil
}

func (f *firewallPart) health() []reason {
	r := reason{component: "firewall", state: healthy}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		r = r.with(degraded, f.err.Error()+"; ports stay down without it")
	case !f.ready:
		r = r.with(starting, "rules are being loaded")
	}
	return []reason{r}
}
