package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/machine"
)

// booting is the stage until the card takes a connection.
const booting = "booting"

// Why a start was not waited for to its end.
var (
	errEnded = errors.New("the machine ended")
	errReset = errors.New("a reset was asked for")
	errTrial = errors.New("the slot on trial failed")
)

// life is one life of the machine, from power on to its end.
type life struct {
	limits  *Limits
	board   *board
	world   *world
	console *console
	restart <-chan struct{}
	poll    func(ctx context.Context) // asks a card that runs how it is

	inst    machine.Instance
	powered time.Time
	exit    machine.Exit
	booted  bool                  // a slot was chosen, where the card has a flash
	failed  *status.FirmwareEvent // why a life of a slot on trial was ended
}

// run powers the machine on and returns when it has ended. Reached says that the
// agent answered. A life that ctx ends is shut down in order.
func (l *life) run(ctx context.Context) (reached bool, err error) {
	l.board.change(func() { l.board.phase, l.board.reply = status.Starting, nil })
	if err := l.powerOn(ctx); err != nil {
		return false, err
	}
	defer func() {
		if stop := l.powerOff(ctx, reached); stop != nil && err == nil {
			err = stop
		}
		l.world.abort()
		l.board.change(func() { l.board.pid = 0 })
	}()
	if err := l.awaitReady(ctx); err != nil {
		if errors.Is(err, errReset) || errors.Is(err, errTrial) {
			l.exit = machine.Exit{Cause: machine.Stopped}
			return false, nil
		}
		if errors.Is(err, errEnded) {
			l.exit = l.inst.Exit()
			err = fmt.Errorf("%w: %s", err, l.exit)
		}
		return false, startError(l.board, l.console, err)
	}
	if !l.world.keepImage() {
		l.exit = machine.Exit{Cause: machine.Stopped}
		return true, nil
	}
	l.setReady()
	l.exit = l.steady(ctx)
	return true, nil
}

// powerOn gives the machine a fresh configuration and console and starts it.
func (l *life) powerOn(ctx context.Context) error {
	l.board.setStage("starting the machine")
	select {
	case <-l.restart: // asked for before: this is it
	default:
	}
	w := l.world
	if err := w.reopen(ctx); err != nil {
		return err
	}
	if err := errors.Join(w.changeImage(), w.bootSlot(ctx)); err != nil {
		return err
	}
	l.booted = true
	l.board.setStage("starting the machine")
	write := w.parts.Initrd
	if write == nil {
		write = writeInitrd
	}
	if err := write(w.cardNow(), w.imageNow(), w.configNow()); err != nil {
		return err
	}
	dir := w.paths.Machine()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	spec := w.machineSpec()
	var err error
	if spec.Console, err = l.console.connect(); err != nil {
		return err
	}
	if l.inst, err = w.machine.Start(ctx, spec); err != nil {
		return fmt.Errorf("machine %s: %w", w.machine.Kind(), err)
	}
	l.powered = time.Now()
	l.board.change(func() { l.board.pid = l.inst.PID() })
	return nil
}

// powerOff ends the machine: by the agent if it has answered, then by force. It does
// nothing to a machine that has ended by itself.
func (l *life) powerOff(ctx context.Context, reached bool) error {
	if ended(l.inst) {
		return nil
	}
	if reached && (ctx.Err() != nil || l.world.isOrdered()) {
		l.board.setStage("waiting for the card to power off")
		rpc, cancel := context.WithTimeout(context.Background(), l.patience(l.limits.Shutdown))
		if _, err := l.world.agent.PowerOff(rpc, &cardpb.PowerOffRequest{}); err == nil {
			select {
			case <-l.inst.Done():
			case <-rpc.Done():
				l.board.event("the card did not power itself off within %s", l.patience(l.limits.Shutdown))
			}
		}
		cancel()
	}
	l.board.setStage("stopping the machine")
	stop, cancel := context.WithTimeout(context.Background(), l.limits.Stop)
	defer cancel()
	return l.inst.Stop(stop)
}

// patience stretches a limit for QEMU's translator, and for a card with a root on a disk, whose init
// starts and ends a whole system. That takes a minute on the translator. What a micro card starts
// there, endpoint mode above all, took an armhf one more than 15 s on a host with a load of 30.
func (l *life) patience(limit time.Duration) time.Duration {
	if l.world.machine.Kind() == machine.TCG {
		limit *= 3
	}
	if l.world.flashNow().start.Image != nil {
		limit *= 4
	}
	return limit
}

func ended(inst machine.Instance) bool {
	select {
	case <-inst.Done():
		return true
	default:
		return false
	}
}

// steady watches a running card until its machine ends or ctx does.
func (l *life) steady(ctx context.Context) machine.Exit {
	tick := time.NewTicker(l.interval())
	defer tick.Stop()
	for {
		select {
		case <-l.inst.Done():
			return l.inst.Exit()
		case <-ctx.Done():
			return machine.Exit{}
		case <-l.restart:
			return machine.Exit{Cause: machine.Stopped}
		case <-tick.C:
			l.poll(ctx)
			if l.failed = l.judge(); l.failed != nil {
				return machine.Exit{Cause: machine.Stopped}
			}
			tick.Reset(l.interval())
		}
	}
}

// interval is the time between two questions to the agent. A slot on trial has its verdict soon.
func (l *life) interval() time.Duration {
	if l.world.flashNow().start.Trial {
		return min(l.limits.Poll, time.Second)
	}
	return l.limits.Poll
}

// setReady ends the start.
func (l *life) setReady() {
	b := l.board
	b.trouble("machine", "")
	l.world.takeDefault(context.Background())
	first := false
	b.change(func() {
		b.phase, b.stage = status.Healthy, ""
		if first = b.ready == 0; first {
			b.ready = time.Since(b.began)
		}
	})
	if ready := l.world.parts.Ready; first && ready != nil {
		ready()
	}
	b.deviceEvent(machineDevice, "ready on %s, %.2f s after power on", l.world.machine.Kind(),
		time.Since(l.powered).Seconds())
}
