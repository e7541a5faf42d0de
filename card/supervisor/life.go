package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/machine"
)

// booting is the stage until the card takes a connection.
const booting = "booting"

// Why a start was not waited for to its end.
var (
	errEnded = errors.New("the machine ended")
	errReset = errors.New("a reset was asked for")
)

// life is one life of the machine, from power on to its end. Reached says
// that the agent answered. A life that ctx ends is shut down in order.
func (s *Supervisor) life(ctx context.Context) (reached bool, exit machine.Exit, err error) {
	s.change(func() { s.phase, s.reply = status.Starting, nil })
	inst, err := s.powerOn(ctx)
	if err != nil {
		return false, exit, err
	}
	defer func() {
		if stop := s.powerOff(ctx, inst, reached); stop != nil && err == nil {
			err = stop
		}
		s.abort()
		s.change(func() { s.instance = nil })
	}()
	if err := s.awaitReady(ctx, inst); err != nil {
		if errors.Is(err, errReset) {
			return false, machine.Exit{Cause: machine.Stopped}, nil
		}
		if errors.Is(err, errEnded) {
			exit = inst.Exit()
			err = fmt.Errorf("%w: %s", err, exit)
		}
		return false, exit, s.startError(err)
	}
	s.setReady()
	return true, s.steady(ctx, inst), nil
}

// powerOn gives the machine a fresh configuration and console and starts it.
func (s *Supervisor) powerOn(ctx context.Context) (machine.Instance, error) {
	s.setStage("starting the machine")
	select {
	case <-s.restart: // asked for before: this is it
	default:
	}
	if err := s.reopen(ctx); err != nil {
		return nil, err
	}
	write := s.parts.Initrd
	if write == nil {
		write = writeInitrd
	}
	s.mu.Lock()
	cfg := s.config
	s.mu.Unlock()
	if err := write(s.card, s.image, cfg); err != nil {
		return nil, err
	}
	dir := s.card.Paths.Machine()
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	spec := s.spec()
	var err error
	if spec.Console, err = s.console.connect(); err != nil {
		return nil, err
	}
	inst, err := s.machine.Start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", s.machine.Kind(), err)
	}
	s.change(func() { s.instance, s.powered = inst, time.Now() })
	return inst, nil
}

// powerOff ends an instance: in order where the agent can be asked, then at
// once. It does nothing to one that has ended by itself.
func (s *Supervisor) powerOff(ctx context.Context, inst machine.Instance, reached bool) error {
	if ended(inst) {
		return nil
	}
	l := s.parts.Limits
	if reached && ctx.Err() != nil {
		s.setStage("waiting for the card to power off")
		rpc, cancel := context.WithTimeout(context.Background(), l.Shutdown)
		if _, err := s.agent.PowerOff(rpc, &cardpb.PowerOffRequest{}); err == nil {
			select {
			case <-inst.Done():
			case <-rpc.Done():
				s.event("the card did not power itself off within %s", l.Shutdown)
			}
		}
		cancel()
	}
	s.setStage("stopping the machine")
	stop, cancel := context.WithTimeout(context.Background(), l.Stop)
	defer cancel()
	return inst.Stop(stop)
}

func ended(inst machine.Instance) bool {
	select {
	case <-inst.Done():
		return true
	default:
		return false
	}
}

// awaitReady waits until the agent answers over the link and a packet of
// full size comes back, within the limit of this kind of machine.
func (s *Supervisor) awaitReady(ctx context.Context, inst machine.Instance) error {
	limit := s.parts.Limits.Start[s.machine.Kind()]
	began := time.Now()
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, step := range []struct {
		stage string
		try   func(context.Context) error
	}{
		{booting, s.ask},
		{"waiting for the link to pass a packet of 65535 bytes", s.ping},
	} {
		s.setStage(step.stage)
		if err := s.insist(wctx, inst, step.try); err != nil {
			if ctx.Err() == nil && wctx.Err() != nil {
				err = fmt.Errorf("not done after %s (%w)", time.Since(began).Round(time.Second), err)
			}
			return err
		}
	}
	return s.settle(ctx, inst)
}

// insist tries until it succeeds, the machine ends, somebody asks for a reset
// or ctx ends; the error then is that of the last try.
func (s *Supervisor) insist(ctx context.Context, inst machine.Instance, try func(context.Context) error) error {
	for wait := s.parts.Limits.Knock; ; wait = min(wait*11/10, 250*time.Millisecond) {
		err := s.attempt(ctx, inst, try)
		if err == nil || errors.Is(err, errEnded) || errors.Is(err, errReset) {
			return err
		}
		select {
		case <-inst.Done():
			return errEnded
		case <-s.restart:
			return errReset
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// attempt is one try, which is broken off when there is no more use in it.
func (s *Supervisor) attempt(ctx context.Context, inst machine.Instance, try func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tried := make(chan error, 1)
	go func() { tried <- try(ctx) }()
	why := errEnded
	select {
	case err := <-tried:
		return err
	case <-inst.Done():
	case <-s.restart:
		why = errReset
	}
	cancel()
	<-tried
	return why
}

// ask asks the agent how it is.
func (s *Supervisor) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	// control's client dials again and again, so that a SYN that a booting
	// card lost costs milliseconds, not TCP's second.
	reply, err := s.agent.Status(ctx, &cardpb.StatusRequest{HostTimeUnixNano: time.Now().UnixNano()})
	if err != nil {
		return fmt.Errorf("the agent: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reply == nil || s.reply.Health != reply.Health || len(s.reply.Reasons) != len(reply.Reasons) {
		s.tell()
	}
	s.reply, s.replied = reply, time.Now()
	return nil
}

func (s *Supervisor) ping(ctx context.Context) error {
	if s.links[0].Att.Ping == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s.links[0].Att.Ping(ctx, s.address())
}

// settle gives a card whose ports are still getting their addresses some
// time before it is called degraded. It fails when a reset is asked for.
func (s *Supervisor) settle(ctx context.Context, inst machine.Instance) error {
	s.setStage("addresses and health")
	ctx, cancel := context.WithTimeout(ctx, s.parts.Limits.Settle)
	defer cancel()
	var since time.Time // of a verdict that may be the last one
	err := s.insist(ctx, inst, func(ctx context.Context) error {
		if err := s.ask(ctx); err != nil {
			return err
		}
		healthy, pending := s.verdict()
		switch {
		case healthy:
			return nil
		case pending || since.IsZero():
			since = time.Now()
		case time.Since(since) > verdictStands:
			return nil
		}
		return errors.New("not settled")
	})
	if errors.Is(err, errReset) {
		return err
	}
	return nil
}

// verdictStands is how long a card is degraded, with nothing under way that
// could mend it, before that is believed.
const verdictStands = time.Second

// verdict says whether the agent is content, and else whether something is
// still under way.
func (s *Supervisor) verdict() (healthy, pending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.reply.GetComponents() {
		pending = pending || c.State == cardpb.Health_HEALTH_STARTING
	}
	h := s.reply.GetHealth()
	return h == cardpb.Health_HEALTH_HEALTHY, pending || h == cardpb.Health_HEALTH_STARTING
}

// setReady ends the start.
func (s *Supervisor) setReady() {
	s.trouble("machine", "")
	if s.undo == nil && s.card.Spec.Link.DefaultRoute && s.links[0].Name == store.LinkDevice {
		undo, err := s.parts.Network.DefaultRoute(context.Background(), s.links[0].Att.Interface, *s.links[0].addrs)
		if s.undo = undo; err != nil {
			s.trouble("default route", err.Error())
		}
		s.steer(context.Background()) // these routes are new
	}
	first := false
	s.change(func() {
		s.phase, s.stage = status.Healthy, ""
		if first = s.ready == 0; first {
			s.ready = time.Since(s.began)
		}
	})
	if first && s.parts.Ready != nil {
		s.parts.Ready()
	}
	s.event("ready on %s, %.2f s after power on", s.machine.Kind(), time.Since(s.powered).Seconds())
}

// steady watches a running card until its machine ends or ctx does.
func (s *Supervisor) steady(ctx context.Context, inst machine.Instance) machine.Exit {
	tick := time.NewTicker(s.parts.Limits.Poll)
	defer tick.Stop()
	for {
		select {
		case <-inst.Done():
			return inst.Exit()
		case <-ctx.Done():
			return machine.Exit{}
		case <-s.restart:
			return machine.Exit{Cause: machine.Stopped}
		case <-tick.C:
			s.poll(ctx)
		}
	}
}

// poll asks the agent and says on disk that this supervisor is alive.
func (s *Supervisor) poll(ctx context.Context) {
	now := time.Now()
	_ = os.Chtimes(s.card.Paths.Lock(), now, now)
	err := s.ask(ctx)
	if err == nil {
		s.trouble("agent", "")
		return
	}
	s.mu.Lock()
	silent := time.Since(s.replied)
	s.mu.Unlock()
	if ctx.Err() == nil && silent > 2*s.parts.Limits.Poll {
		s.trouble("agent", fmt.Sprintf("has not answered for %s; `toe reset %s` starts the card again", silent.Round(time.Second), s.card.Name))
	}
}
