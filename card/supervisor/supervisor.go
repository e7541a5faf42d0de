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
	"net/netip"
	"sync"
	"time"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/machine"
)

// Parts are what a supervisor is put together from.
type Parts struct {
	// Choose picks the machine for card.yaml's machine.kind, and says why.
	Choose func(ctx context.Context, kind string) (m machine.Machine, why string, err error)
	// Image gives the firmware for a kind of machine, built if need be.
	Image func(ctx context.Context, edition string, kind machine.Kind) (Image, error)
	// Flash opens the card's flash, and makes it if need be. It returns nil for an edition without
	// one. Nil where no card has a flash.
	Flash func(ctx context.Context, c *store.Card, kind machine.Kind) (*rom.ROM, error)
	// Network is the host.
	Network Network
	// Keeper makes a device's socket and starts its pump; event is called
	// for what happens to it.
	Keeper func(d Device, event func(text string)) (Keeper, error)
	// Disk makes a disk's socket and starts its back end over a file; event is called for what
	// happens to it.
	Disk func(d Device, path string, event func(text string)) (DiskKeeper, error)
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
	Hang     time.Duration                  // that a slot on trial may leave them unanswered
	Suspect  time.Duration                  // from power on until the host's firewall is suspected
	Knock    time.Duration                  // between tries to reach a booting one
	Backoff  []time.Duration                // before restarts in a row, the first being the first's
	Stable   time.Duration                  // a life of this length ends the row of restarts
}

// DefaultLimits are those of real machines.
func DefaultLimits() Limits {
	return Limits{
		Start: map[machine.Kind]time.Duration{
			machine.UML: 60 * time.Second, machine.KVM: 60 * time.Second, machine.TCG: 180 * time.Second,
		},
		Settle:   15 * time.Second,
		Shutdown: 5 * time.Second,
		Stop:     5 * time.Second,
		Poll:     5 * time.Second,
		Hang:     30 * time.Second,
		Suspect:  3 * time.Second,
		Knock:    10 * time.Millisecond,
		Stable:   10 * time.Second,
		Backoff: []time.Duration{
			0, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
		},
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

// Supervisor runs one card. What outlives a machine is its world, what is known
// is on its board, and each start of the machine is a life.
type Supervisor struct {
	card    *store.Card // as it was when the supervisor started
	parts   Parts
	board   *board
	world   *world
	console *console
	server  *server

	applying sync.Mutex    // held while the specification changes
	restart  chan struct{} // a reset is asked for
	down     chan struct{} // the end is asked for
}

// New makes the supervisor of a card. Run does the work.
func New(c *store.Card, parts Parts, logger *log.Logger) *Supervisor {
	s := &Supervisor{card: c, parts: parts, restart: make(chan struct{}, 1), down: make(chan struct{}, 1)}
	s.board = newBoard(c.Paths.Last(), logger)
	s.world = newWorld(c, &s.parts, s.board)
	return s
}

// Run starts the card and keeps it running until ctx ends or a client asks for
// its end, then takes down everything it made. Ready, when not nil, is called as
// soon as the supervisor's socket can be asked. The error is a *StartError when
// the card never became ready.
func (s *Supervisor) Run(ctx context.Context, ready func()) (err error) {
	s.board.began = time.Now()
	if err := s.card.Paths.CheckSockets(); err != nil {
		return fmt.Errorf("card %s: %w", s.card.Name, err)
	}
	lock, err := s.card.Lock()
	if errors.Is(err, store.ErrRunning) {
		pid, _, _ := flock.Owner(s.card.Paths.Lock())
		return fmt.Errorf("card %[1]s: %[2]w (supervisor %[3]d); `toe down %[1]s` takes it down", s.card.Name, err, pid)
	}
	if err != nil {
		return fmt.Errorf("card %s: %w", s.card.Name, err)
	}
	defer lock.Release()
	s.board.inherit()
	if err := hostnet.Clean(s.card); err != nil {
		return fmt.Errorf("card %s: what an earlier supervisor left: %w", s.card.Name, err)
	}
	if err := s.card.EnsureKeys(); err != nil {
		return fmt.Errorf("card %s: keys: %w", s.card.Name, err)
	}
	s.board.remember()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.open(ctx, cancel); err != nil {
		s.board.leave(status.Failed, []string{err.Error()})
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
	s.world.task(func() { s.board.write(s.world.quit) })
	s.world.task(func() {
		select {
		case <-s.down:
			cancel()
		case <-ctx.Done():
		case <-s.world.quit:
		}
	})
	return nil
}

func (s *Supervisor) run(ctx context.Context) error {
	if err := s.world.prepare(ctx); err != nil {
		return startError(s.board, s.console, err)
	}
	return s.lives(ctx)
}

func startError(b *board, c *console, err error) error {
	var se *StartError
	if errors.As(err, &se) {
		return err
	}
	return &StartError{Stage: cmp.Or(b.stageNow(), "starting"), Err: err, Console: c.tail(store.TailBytes)}
}

// finish takes everything down, in the reverse of the order it was made in, and
// leaves word of how it ended. The server goes first, and its handlers with it:
// an apply that is under way would change the host behind the taking down.
func (s *Supervisor) finish(ctx context.Context, err error) error {
	interrupted := ctx.Err() != nil
	s.board.change(func() { s.board.stopping = true })
	s.board.setStage("taking down")
	close(s.world.quit)
	s.server.Close()
	down := s.world.takeDown()
	s.console.Close()
	s.world.tasks.Wait()
	state, reasons := status.Stopped, []string{}
	switch {
	case err != nil && !interrupted:
		state, reasons = status.Failed, []string{err.Error()}
		s.board.event("failed: %v", err)
	case err == nil && !interrupted:
		reasons = []string{"the card powered itself off"}
	}
	if down != nil {
		s.board.event("taking down: %v", down)
		reasons = append(reasons, down.Error())
	}
	s.board.releaseAll()
	s.board.leave(state, reasons)
	if interrupted && err != nil {
		return errors.Join(ctx.Err(), down)
	}
	return errors.Join(err, down)
}
