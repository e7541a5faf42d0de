package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/internal/tail"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/qemu/qmp"
	"golang.org/x/sys/unix"
)

// readyLimit is the maximum time to QEMU's first answer. It takes 0.1 s; a vhost-user back end that
// does not answer blocks it.
const readyLimit = 15 * time.Second

// quitLimit is the maximum time from the quit command to QEMU's exit.
const quitLimit = 2 * time.Second

// instance is a running QEMU.
type instance struct {
	proc    *sandbox.Process
	words   *tail.Buffer // the last of QEMU's stderr
	console *tail.Buffer // the last of the card's console
	qmp     *qmp.Client  // nil until the handshake
	stopped atomic.Bool
	exit    machine.Exit // valid after done
	done    chan struct{}
	drained sync.WaitGroup
}

// plumbing holds the descriptors between QEMU and this process.
type plumbing struct {
	monitor       net.Conn
	words, copied *os.File   // read ends
	theirs        []*os.File // QEMU's ends: stderr, QMP, copy of the console
}

func plumb() (p *plumbing, err error) {
	p = &plumbing{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	var w *os.File
	if p.words, w, err = os.Pipe(); err != nil {
		return p, err
	}
	p.theirs = append(p.theirs, w)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return p, err
	}
	p.theirs = append(p.theirs, os.NewFile(uintptr(fds[1]), "QMP of QEMU"))
	ours := os.NewFile(uintptr(fds[0]), "QMP")
	defer ours.Close()
	if p.monitor, err = net.FileConn(ours); err != nil {
		return p, err
	}
	if p.copied, w, err = os.Pipe(); err != nil {
		return p, err
	}
	p.theirs = append(p.theirs, w)
	return p, nil
}

func (p *plumbing) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
}

func (p *plumbing) close() {
	p.closeTheirs()
	for _, f := range []*os.File{p.words, p.copied} {
		if f != nil {
			f.Close()
		}
	}
	if p.monitor != nil {
		p.monitor.Close()
	}
}

func (m *Machine) launch(ctx context.Context, known features, spec machine.Spec) (*instance, error) {
	cell, err := m.cardCell(known, spec)
	if err != nil {
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	p, err := plumb()
	if err != nil {
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	proc, err := sandbox.Start(ctx, cell, sandbox.Stdio{Err: p.theirs[0],
		Extra: []*os.File{p.theirs[1], spec.Console, p.theirs[2]}})
	if err != nil {
		p.close()
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	p.closeTheirs()
	i := &instance{proc: proc, words: &tail.Buffer{}, console: &tail.Buffer{}, done: make(chan struct{})}
	i.drain(i.words, p.words)
	i.drain(i.console, p.copied)
	if err := i.handshake(ctx, p.monitor); err != nil {
		_ = proc.Kill()
		<-proc.Done()
		i.drained.Wait()
		if noBoard := m.checkBoard(ctx, known.path); noBoard != nil {
			err = noBoard
		} else if last := i.words.LastLine(); last != "" {
			err = fmt.Errorf("%w; QEMU's last words: %s", err, last)
		}
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	go i.watch()
	return i, nil
}

// drain keeps the last output from r until all its writers have ended.
func (i *instance) drain(to io.Writer, r *os.File) {
	i.drained.Go(func() {
		_, _ = io.Copy(to, r)
		r.Close()
	})
}

// handshake fails early if QEMU exits, because that closes the socket.
func (i *instance) handshake(ctx context.Context, monitor net.Conn) error {
	stop := context.AfterFunc(ctx, func() { monitor.Close() })
	defer stop()
	c, err := qmp.Handshake(monitor, time.Now().Add(readyLimit))
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	i.qmp = c
	return nil
}

func (i *instance) watch() {
	defer close(i.done)
	<-i.proc.Done()
	i.drained.Wait()
	<-i.qmp.Done() // all its messages have been read
	i.qmp.Close()
	i.exit = i.cause(i.proc.State().Sys().(syscall.WaitStatus))
}

// cause combines QMP's last event, the wait status and the end of the console. A panic resets the
// machine as a reboot does, and QMP reports both alike. pvpanic would report a panic, but its
// driver is a module in Debian's kernels, which a card that panics early has not loaded. So the
// console decides between the two. Only the pause before the next start depends on it.
func (i *instance) cause(ws syscall.WaitStatus) machine.Exit {
	reason := i.qmp.Reason()
	switch {
	case i.stopped.Load():
		return machine.Exit{Cause: machine.Stopped}
	case ws.Signaled():
		return signalled(ws, i.words.LastLine())
	case reason == qmp.GuestPanic, reason == qmp.GuestReset && panicLine(i.console.String()) != "":
		return machine.Exit{Cause: machine.Panicked, Detail: panicLine(i.console.String())}
	case reason == qmp.GuestReset:
		return machine.Exit{Cause: machine.Rebooted}
	case reason == qmp.GuestShutdown:
		return machine.Exit{Cause: machine.PoweredOff}
	case reason == qmp.HostSignal:
		return machine.Exit{Cause: machine.Killed, Detail: i.words.LastLine()}
	}
	return machine.Exit{Cause: machine.Crashed, Detail: fmt.Sprintf("exit status %d: %s", ws.ExitStatus(), i.words.LastLine())}
}

// signalled distinguishes a crash of QEMU from a signal that another process sent.
func signalled(ws syscall.WaitStatus, last string) machine.Exit {
	switch ws.Signal() {
	case syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGSYS:
		return machine.Exit{Cause: machine.Crashed, Detail: fmt.Sprintf("%v %s", ws.Signal(), last)}
	}
	return machine.Exit{Cause: machine.Killed, Detail: ws.Signal().String()}
}

func panicLine(console string) string {
	i := strings.LastIndex(console, "Kernel panic")
	if i < 0 {
		return ""
	}
	var b tail.Buffer
	line, _, _ := strings.Cut(console[i:], "\n")
	_, _ = b.Write([]byte(line))
	return b.LastLine()
}

func (i *instance) PID() int              { return i.proc.PID() }
func (i *instance) Done() <-chan struct{} { return i.done }
func (i *instance) Exit() machine.Exit    { return i.exit }

// Stop asks QEMU to quit, which flushes the disk. It kills QEMU after quitLimit.
func (i *instance) Stop(ctx context.Context) error {
	select {
	case <-i.done: // it has ended by itself: its cause stays
		return nil
	default:
	}
	i.stopped.Store(true)
	if i.qmp.Quit() == nil {
		select {
		case <-i.done:
			return nil
		case <-ctx.Done():
		case <-time.After(quitLimit):
		}
	}
	if err := i.proc.Kill(); err != nil {
		return err
	}
	select {
	case <-i.done:
		return nil
	case <-time.After(quitLimit):
		return fmt.Errorf("QEMU process %d has not ended %v after SIGKILL", i.PID(), quitLimit)
	}
}
