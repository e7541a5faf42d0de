package uml

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/internal/tail"
	"github.com/toe-project/toe/machine"
)

// instance is a running card. Its process is the init of a PID namespace, so the processes that the
// kernel keeps for the card's programs end with it.
type instance struct {
	proc    *sandbox.Process
	words   *tail.Buffer // the last of stderr
	stopped atomic.Bool  // Stop was called
	exit    machine.Exit // valid after done
	done    chan struct{}
}

func (m *Machine) launch(ctx context.Context, spec machine.Spec) (*instance, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("card %s: pipe: %w", spec.Name, err)
	}
	proc, err := sandbox.Start(ctx, m.cell(spec), sandbox.Stdio{In: spec.Console, Out: spec.Console, Err: w})
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	i := &instance{proc: proc, words: &tail.Buffer{}, done: make(chan struct{})}
	go i.watch(r)
	return i, nil
}

// watch returns when the process and every other holder of its stderr have ended.
func (i *instance) watch(stderr *os.File) {
	defer close(i.done)
	_, _ = io.Copy(i.words, stderr)
	stderr.Close()
	<-i.proc.Done()
	i.exit = exitOf(i.proc.State().Sys().(syscall.WaitStatus), i.stopped.Load(), i.words)
}

// panicStatus is the exit status of uml_abort in arch/um/os-Linux/util.c.
const panicStatus = 127

// exitOf derives the cause of the end from the wait status. The kernel's main returns 0 after a
// power-off. At a reboot it executes a program that exits with rebootStatus. After a panic it
// aborts, which the cell turns into an exit (sandbox/uml_policy.go).
func exitOf(ws syscall.WaitStatus, stopped bool, words *tail.Buffer) machine.Exit {
	last := words.LastLine()
	switch {
	case stopped:
		return machine.Exit{Cause: machine.Stopped}
	case ws.Exited() && ws.ExitStatus() == rebootStatus:
		return machine.Exit{Cause: machine.Rebooted}
	case ws.Exited() && ws.ExitStatus() == 0:
		return machine.Exit{Cause: machine.PoweredOff}
	case ws.Signaled() && (ws.Signal() == syscall.SIGABRT || ws.Signal() == syscall.SIGSEGV),
		ws.Exited() && ws.ExitStatus() == panicStatus:
		return machine.Exit{Cause: machine.Panicked, Detail: last}
	case ws.Signaled():
		return machine.Exit{Cause: machine.Killed, Detail: ws.Signal().String()}
	}
	return machine.Exit{Cause: machine.Crashed, Detail: detail(ws, last)}
}

func detail(ws syscall.WaitStatus, last string) string {
	if last == "" {
		return fmt.Sprintf("exit status %d", ws.ExitStatus())
	}
	return fmt.Sprintf("exit status %d: %s", ws.ExitStatus(), last)
}

func (i *instance) PID() int              { return i.proc.PID() }
func (i *instance) Done() <-chan struct{} { return i.done }
func (i *instance) Exit() machine.Exit    { return i.exit }

// Stop sends SIGKILL: the agent's orderly shutdown has been tried before, and the kernel has
// nothing to save.
func (i *instance) Stop(ctx context.Context) error {
	select {
	case <-i.done: // it has ended by itself: its cause stays
		return nil
	default:
	}
	i.stopped.Store(true)
	if err := i.proc.Kill(); err != nil {
		return err
	}
	select {
	case <-i.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for User-Mode Linux process %d to end after SIGKILL: %w", i.PID(), ctx.Err())
	}
}
