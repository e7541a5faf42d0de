package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// The services of a card are programs of its Debian, as units of systemd. The host has rendered their
// files (package service). They lie in memory, as the rest of the configuration does, so each start of
// the card brings them again, whatever slot of the flash it runs. serviceput.go puts one into force.

// servicesPart runs the services of the configuration.
type servicesPart struct {
	idle
	*env
	sys serviceSystem

	mu    sync.Mutex // guards what follows
	state map[string]serviceState
}

// serviceState is what is known of one service.
type serviceState struct {
	reason
	packages string // their versions, and where they come from
	restarts int    // by systemd, since the service was put into force
	last     string // how the program ended the last time
}

// serviceRetry are the pauses between tries to start a service with the card.
const serviceRetry, serviceRetryMost = 10 * time.Second, 5 * time.Minute

// serviceLook is how often systemd is asked how the units are.
const serviceLook = 5 * time.Second

func newServicesPart(e *env) *servicesPart {
	return &servicesPart{env: e, sys: newServiceSystem(e), state: map[string]serviceState{}}
}

// plan checks the new services as far as that changes nothing: the program of each accepts its files.
func (s *servicesPart) plan(now, next *control.Config) ([]step, error) {
	var steps []step
	for _, old := range now.Services {
		if findService(next, old.Name) == nil {
			steps = append(steps, step{
				fmt.Sprintf("service %s is removed", old.Name),
				func() error { return s.remove(old) },
				func() error { return s.put(old, nil) },
			})
		}
	}
	for _, want := range next.Services {
		old := findService(now, want.Name)
		if old != nil && reflect.DeepEqual(*old, want) {
			continue
		}
		if err := s.able(); err != nil {
			return nil, fmt.Errorf("service %s: %w", want.Name, err)
		}
		if err := s.sys.accept(s.run, want, old, s.freed(now, next)); err != nil {
			return nil, fmt.Errorf("service %s: %w", want.Name, err)
		}
		steps = append(steps, step{
			"service " + want.Name,
			func() error { return s.put(want, old) },
			func() error {
				if old == nil {
					return s.remove(want)
				}
				return s.put(*old, &want)
			},
		})
	}
	return steps, nil
}

// freed are the ports that services give up between two configurations.
func (s *servicesPart) freed(now, next *control.Config) map[string]bool {
	out := map[string]bool{}
	for _, one := range now.Services {
		if other := findService(next, one.Name); other != nil && reflect.DeepEqual(one, *other) {
			continue
		}
		for _, p := range one.Ports {
			out[p.String()] = true
		}
	}
	return out
}

func findService(c *control.Config, name string) *control.Service {
	i := slices.IndexFunc(c.Services, func(s control.Service) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Services[i]
}

var errNoServices = errors.New("this card runs edition micro; want firmware.edition: debian")

func (s *servicesPart) able() error {
	if !s.opts.Service {
		return errNoServices
	}
	return nil
}

// put puts a service into force in the place of old, which may be nil. On an error old is still there
// as far as its program is concerned, or the caller puts it back.
func (s *servicesPart) put(want control.Service, old *control.Service) error {
	s.set(want.Name, starting, "is being started")
	packages, err := s.sys.put(s.run, want, old)
	if err != nil {
		s.set(want.Name, degraded, err.Error())
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state[want.Name] = serviceState{
		reason: reason{"service " + want.Name, healthy, want.Unit}, packages: packages,
	}
	return nil
}

func (s *servicesPart) remove(old control.Service) error {
	err := s.sys.remove(s.run, old)
	s.mu.Lock()
	delete(s.state, old.Name)
	s.mu.Unlock()
	return err
}

func (s *servicesPart) set(name string, state health, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.state[name]
	now.reason = reason{"service " + name, state, detail}
	s.state[name] = now
}

// rules open the ports of services to the card's ports that they are to be reached from.
func (s *servicesPart) rules(c *control.Config, r *rules) {
	for _, one := range c.Services {
		for _, p := range one.Ports {
			w := wirePort{unix.IPPROTO_TCP, p.Port}
			if p.Protocol == control.UDP {
				w.protocol = unix.IPPROTO_UDP
			}
			for _, from := range p.From {
				r.opened = append(r.opened, openPort{from, w})
			}
		}
	}
}

// start brings the services up with the card, each as soon as it can be, and then watches them.
func (s *servicesPart) start(ctx context.Context) {
	for _, one := range s.config().Services {
		if err := s.able(); err != nil {
			s.set(one.Name, degraded, err.Error())
			continue
		}
		s.set(one.Name, starting, "waits for systemd")
	}
	if s.able() == nil {
		s.spawn(func() { s.bringUp(ctx) })
		s.spawn(func() { s.watch(ctx) })
	}
}

// bringUp puts each service of the configuration into force that is not, until all are.
func (s *servicesPart) bringUp(ctx context.Context) {
	for !s.sys.ready() {
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
	for pause := serviceRetry; ; pause = min(2*pause, serviceRetryMost) {
		failed := false
		for _, one := range s.config().Services {
			failed = !s.bring(one.Name) || failed
		}
		if !failed || !sleep(ctx, pause) {
			return
		}
	}
}

// bring puts one service into force, where the configuration still has it and it is not there yet.
func (s *servicesPart) bring(name string) bool {
	s.applying.Lock()
	defer s.applying.Unlock()
	want := findService(s.config(), name)
	s.mu.Lock()
	up := s.state[name].packages != ""
	s.mu.Unlock()
	if want == nil || up || s.run.Err() != nil {
		return true
	}
	if err := s.put(*want, nil); err != nil {
		s.log.Sayf("service %s: %v", name, err)
		return false
	}
	s.log.Sayf("service %s runs", name)
	return true
}

// watch looks after the units: systemd starts a program again that has ended, and this part says so.
func (s *servicesPart) watch(ctx context.Context) {
	for sleep(ctx, serviceLook) {
		if !s.applying.TryLock() {
			continue // an apply starts and stops units
		}
		s.look()
		s.applying.Unlock()
	}
}

func (s *servicesPart) look() {
	var units []string
	for _, one := range s.config().Services {
		units = append(units, one.Unit)
	}
	if len(units) == 0 {
		return
	}
	found, err := s.sys.show(s.run, units)
	if err != nil {
		return // systemd is busy, or the card goes down
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.config().Services {
		now, u := s.state[one.Name], found[one.Unit]
		if now.packages == "" {
			continue // not in force
		}
		if u.restarts > now.restarts {
			now.last = u.ended
			s.log.Sayf("service %s: its program ended (%s); systemd started it again, %d times so far",
				one.Name, u.ended, u.restarts)
		}
		now.restarts = max(now.restarts, u.restarts)
		before := now.state
		now.reason = u.health(one, now)
		if now.state != before {
			s.log.Sayf("service %s: %s", one.Name, now.detail)
		}
		s.state[one.Name] = now
	}
}

func (s *servicesPart) health() []reason {
	var out []reason
	conf := s.config()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range conf.Services {
		now, ok := s.state[one.Name]
		if !ok {
			now.reason = reason{"service " + one.Name, starting, "not started yet"}
		}
		r := now.reason
		if r.state == healthy {
			r.detail = strings.Join(slices.DeleteFunc([]string{one.Unit, now.packages, now.again()},
				func(s string) bool { return s == "" }), "; ")
		}
		out = append(out, r)
	}
	return out
}

// again says how often the program was started again.
func (n serviceState) again() string {
	switch n.restarts {
	case 0:
		return ""
	case 1:
		return "restarted once: " + n.last
	}
	return fmt.Sprintf("restarted %d times, the last time: %s", n.restarts, n.last)
}

// unitState is what systemd knows of a unit.
type unitState struct {
	active   string // ActiveState
	restarts int    // NRestarts
	ended    string // how the main process ended last
}

func (u unitState) health(s control.Service, now serviceState) reason {
	r := reason{component: "service " + s.Name, state: healthy}
	if u.active == "active" || u.active == "reloading" {
		return r
	}
	detail := fmt.Sprintf("%s is %s", s.Unit, u.active)
	if u.ended != "" {
		detail += " (" + u.ended + ")"
	}
	return r.with(degraded, fmt.Sprintf("%s; `toe service logs` shows its log", detail))
}

// systemdReady reports whether systemd takes commands.
func systemdReady() bool {
	_, err := os.Stat("/run/systemd/private")
	return err == nil
}
