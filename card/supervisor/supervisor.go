// Package supervisor runs a card. There is no daemon: each card has one
// supervisor process (what `toe run NAME` is), which owns the card's machine,
// its links and its ports, and answers on a socket in the card's runtime folder.
package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/machine"
)

// Parts are what a supervisor is put together from.
type Parts struct {
	// Choose picks the machine for card.yaml's machine.kind, and says why.
	Choose func(ctx context.Context, kind string) (m machine.Machine, why string, err error)
	// Image gives the firmware for a kind of machine, built if need be.
	Image func(ctx context.Context, edition string, kind machine.Kind) (Image, error)
	// Network is the host.
	Network Network
	// Keeper makes a device's socket and starts its pump; event is called
	// for what happens to it.
	Keeper func(d Device, event func(text string)) (Keeper, error)
	// Control prepares a client of the card's agent.
	Control func(addr netip.AddrPort, keys control.Keys, dial control.DialFunc) (cardpb.CardClient, func(), error)
	// Initrd writes the card's initramfs. Nil for the usual one.
	Initrd func(c *store.Card, img Image, cfg *control.Config) error
	// Ready is called when the card is ready for the first time. May be nil.
	Ready func()
	// Limits are the times that things may take.
	Limits Limits
}

// Limits are how long the supervisor waits, and how often it looks.
type Limits struct {
	Start    map[machine.Kind]time.Duration // from power on until the agent answers
	Settle   time.Duration                  // from then until degraded is taken for the answer
	Shutdown time.Duration                  // for the card to power itself off
	Stop     time.Duration                  // for its machine to end after that
	Poll     time.Duration                  // between questions to a healthy agent
	Knock    time.Duration                  // between tries to reach a booting one
	Backoff  []time.Duration                // before restarts in a row, the first being the first's
	Stable   time.Duration                  // a life that lasts this long ends the row
}

// DefaultLimits are those of real machines.
func DefaultLimits() Limits {
	return Limits{
		Start:    map[machine.Kind]time.Duration{machine.UML: 20 * time.Second, machine.KVM: 60 * time.Second, machine.TCG: 180 * time.Second},
		Settle:   15 * time.Second,
		Shutdown: 5 * time.Second,
		Stop:     5 * time.Second,
		Poll:     5 * time.Second,
		Knock:    10 * time.Millisecond,
		Stable:   10 * time.Second,
		Backoff:  []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second},
	}
}

// StartError is a card that did not become ready.
type StartError struct {
	Stage   string // what was being done or waited for
	Console string // the end of the card's console, may be empty
	Err     error
}

func (e *StartError) Error() string { return e.Stage + ": " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Supervisor runs one card.
type Supervisor struct {
	card  *store.Card
	parts Parts
	log   *log.Logger

	lock    *flock.Lock
	console *console
	server  *server
	began   time.Time

	machine  machine.Machine
	links    []*device // the link where there is one, then exec
	ports    []*device
	given    store.Links
	image    Image
	config   *control.Config
	undo     func() error // of the default route
	steering sync.Mutex   // held while the host's routes are made to fit the mode
	goBack   func() error // undoes the way back of published services; guarded by steering
	applying sync.Mutex   // held while the specification changes
	agent    cardpb.CardClient
	hangUp   func()
	leaving  sync.Mutex    // held while last.json is written
	left     bool          // it says how this supervisor ended; guarded by leaving
	quit     chan struct{} // closed when the taking down begins
	restart  chan struct{}
	down     chan struct{}
	tasks    sync.WaitGroup

	// mu guards what Status shows; a reader may be a moment behind the
	// machine, never inconsistent. Machine, image, links, ports, config,
	// agent and the card's specification are written with it held, too, and
	// after the start is prepared only the last ones change (apply).
	mu       sync.Mutex
	phase    status.State
	stage    string
	why      string
	instance machine.Instance
	powered  time.Time              // when it was started
	reply    *cardpb.StatusResponse // the agent's last
	replied  time.Time
	troubles map[string]string // by component: what is wrong on the host's side
	history  []status.Event
	restarts int
	ready    time.Duration
	sequence uint64
	changed  chan struct{} // closed and replaced when sequence grows
	stopping bool
}

// device is a network device of the card with what serves it.
type device struct {
	Device
	attach string
	addrs  *store.LinkAddrs
	keeper Keeper
	dead   bool // its other end is gone
	spec   spec.Port
}

// New makes the supervisor of a card; Run does the work.
func New(c *store.Card, parts Parts, logger *log.Logger) *Supervisor {
	return &Supervisor{
		card: c, parts: parts, log: logger, phase: status.Starting,
		quit:     make(chan struct{}),
		troubles: map[string]string{}, changed: make(chan struct{}),
		restart: make(chan struct{}, 1), down: make(chan struct{}, 1),
	}
}

// Run starts the card and keeps it running until ctx ends or somebody asks
// for its end, then takes down everything it made. Ready, when not nil, is
// called as soon as the supervisor's socket can be asked. The error is a *StartError
// when the card never became ready.
func (s *Supervisor) Run(ctx context.Context, ready func()) (err error) {
	s.began = time.Now()
	s.lock, err = s.card.Lock()
	if errors.Is(err, store.ErrRunning) {
		pid, _, _ := flock.Owner(s.card.Paths.Lock())
		return fmt.Errorf("card %s: %w (supervisor %d); `toe down %s` takes it down", s.card.Name, err, pid, s.card.Name)
	}
	if err != nil {
		return fmt.Errorf("card %s: %w", s.card.Name, err)
	}
	defer s.lock.Release()
	s.inherit()
	if err := hostnet.Clean(s.card); err != nil {
		return fmt.Errorf("card %s: what an earlier supervisor left: %w", s.card.Name, err)
	}
	if err := s.card.EnsureKeys(); err != nil {
		return fmt.Errorf("card %s: keys: %w", s.card.Name, err)
	}
	s.remember()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.open(ctx, cancel); err != nil {
		return err
	}
	if ready != nil {
		ready()
	}
	err = s.run(ctx)
	return s.finish(ctx, err)
}

// open makes the sockets that others reach the supervisor by.
func (s *Supervisor) open(ctx context.Context, cancel func()) (err error) {
	if s.console, err = openConsole(s.card.Paths); err != nil {
		return err
	}
	if s.server, err = s.listen(); err != nil {
		s.console.Close()
		return err
	}
	s.task(func() {
		select {
		case <-s.down:
			cancel()
		case <-ctx.Done():
		case <-s.quit:
		}
	})
	return nil
}

func (s *Supervisor) task(f func()) {
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

func (s *Supervisor) run(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return s.startError(err)
	}
	return s.lives(ctx)
}

// lives runs the machine again and again. It returns nil when ctx ended or
// the card powered itself off, and an error when it did not even start once.
func (s *Supervisor) lives(ctx context.Context) error {
	row := 0 // restarts for lives that ended soon
	for ever := false; ; {
		began := time.Now()
		reached, exit, err := s.life(ctx)
		ever = ever || reached
		switch {
		case ctx.Err() != nil:
			return nil
		case !ever && err != nil:
			return s.startError(err)
		case err == nil && exit.Cause == machine.PoweredOff:
			s.event("the card powered itself off")
			return nil
		}
		if exit.Cause == machine.Stopped || reached && time.Since(began) > s.parts.Limits.Stable {
			row = 0
		}
		if !reached && exit.Cause != machine.Stopped {
			row = max(row, 1) // what did not even start does not get a try at once
		}
		s.note(exit, err)
		if !s.pause(ctx, s.parts.Limits.Backoff[min(row, len(s.parts.Limits.Backoff)-1)]) {
			return nil
		}
		row++
		s.change(func() { s.restarts++ })
	}
}

// note records why the machine has to be started again.
func (s *Supervisor) note(exit machine.Exit, err error) {
	switch {
	case err != nil:
		s.event("restart failed: %v", err)
	case exit.Cause == machine.Rebooted:
		s.event("the card rebooted")
	case exit.Cause == machine.Stopped:
		s.event("machine restarted on request")
	default:
		s.event("machine %s; starting it again", exit)
	}
	s.trouble("machine", "")
	if err != nil || exit.Cause != machine.Rebooted && exit.Cause != machine.Stopped {
		text := "machine " + exit.String()
		if err != nil {
			text = err.Error()
		}
		s.trouble("machine", text+"; being started again")
	}
}

func (s *Supervisor) pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.restart: // somebody does not want to wait
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Supervisor) startError(err error) error {
	var se *StartError
	if errors.As(err, &se) {
		return err
	}
	s.mu.Lock()
	stage := s.stage
	s.mu.Unlock()
	return &StartError{Stage: cmp.Or(stage, "starting"), Err: err, Console: s.console.tail(store.TailBytes)}
}

// finish takes everything down, in the reverse of the order it was made in,
// and leaves word of how it ended.
func (s *Supervisor) finish(ctx context.Context, err error) error {
	interrupted := ctx.Err() != nil
	s.change(func() { s.stopping = true })
	close(s.quit)
	s.setStage("taking down")
	down := s.takeDown()
	s.server.Close()
	s.console.Close()
	s.tasks.Wait()
	state, reasons := status.Stopped, []string{}
	switch {
	case err != nil && !interrupted:
		state, reasons = status.Failed, []string{err.Error()}
		s.event("failed: %v", err)
	case err == nil && !interrupted:
		reasons = []string{"the card powered itself off"}
	}
	if down != nil {
		s.event("taking down: %v", down)
		reasons = append(reasons, down.Error())
	}
	s.leave(state, reasons)
	if interrupted && err != nil {
		return errors.Join(ctx.Err(), down)
	}
	return errors.Join(err, down)
}

// takeDown undoes prepare. It may be called after any part of it.
func (s *Supervisor) takeDown() error {
	var errs []error
	if s.undo != nil {
		errs = append(errs, s.undo())
	}
	if s.goBack != nil {
		errs = append(errs, s.goBack())
	}
	if s.hangUp != nil {
		s.hangUp()
	}
	for _, d := range append(s.links, s.ports...) {
		if d.keeper != nil {
			errs = append(errs, d.keeper.Close())
		}
		errs = append(errs, d.Att.Detach())
	}
	if s.image.InUse != nil {
		errs = append(errs, s.image.InUse.Close())
	}
	errs = append(errs, hostnet.Clean(s.card))
	return errors.Join(errs...)
}

// address is where the agent is reached.
func (s *Supervisor) address() netip.Addr { return s.links[0].addrs.Card()[0].Addr() }

// Dial opens a connection to the card by way of the first link.
func (s *Supervisor) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if len(s.links) == 0 || s.links[0].Att == nil {
		return nil, fmt.Errorf("card %s has no link yet", s.card.Name)
	}
	conn, err := s.links[0].Att.Dial(ctx, network, address)
	if err == nil {
		s.answered()
	}
	return conn, err
}

// answered notes that a booting card has taken a connection.
func (s *Supervisor) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == booting {
		s.stage = "waiting for the agent"
		s.tell()
	}
}

// remember says on disk that this process runs the card, and leave how it ended.
func (s *Supervisor) remember() { s.leave(status.Running, nil) }

func (s *Supervisor) leave(state status.State, reasons []string) {
	s.leaving.Lock()
	defer s.leaving.Unlock()
	if s.left {
		return // an event that came after the end must not say that there is a supervisor
	}
	s.left = state != status.Running
	s.mu.Lock()
	l := status.Last{State: state, Reasons: reasons, Time: time.Now(), PID: os.Getpid(), Boot: store.BootID(), History: s.history}
	s.mu.Unlock()
	if err := atomicfile.WriteJSON(s.card.Paths.Last(), l); err != nil {
		s.log.Printf("state: %v", err)
	}
}

// inherit takes over the history of the supervisor before, and notes when
// that one did not end by itself.
func (s *Supervisor) inherit() {
	var l status.Last
	if atomicfile.ReadJSON(s.card.Paths.Last(), &l) != nil {
		return
	}
	s.history = l.History
	if l.State == status.Running {
		s.event("supervisor %d before this one was killed; cleaned up after it", l.PID)
	}
}

// downing is closed when the card is being taken down.
func (s *Supervisor) downing() <-chan struct{} { return s.quit }
