package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/toe-project/toe/internal/privilege"
)

// reportFD is the descriptor to which a helper writes an error before the program runs. The
// descriptors after it are the program's own.
const reportFD = 3

// startLimit is the maximum time for a helper to build its cell. It takes about 20 ms; the limit is
// for a host that is out of memory or very busy.
const startLimit = 20 * time.Second

// Process is a program in a cell.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // from Wait; valid after done
}

// Stdio holds the program's descriptors 0, 1 and 2; nil is /dev/null. Extra become 4, 5, … (3 is
// closed).
type Stdio struct {
	In, Out, Err *os.File
	Extra        []*os.File
}

// Start builds the cell and returns once the program has been executed in it. The program and all
// its descendants get SIGKILL when the calling process ends, for any reason.
func Start(ctx context.Context, c Cell, io Stdio) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	order := helperOrder{Cell: c, Extra: len(io.Extra), CPU: -1}
	if c.OneCPU {
		order.CPU = pickCPU()
	}
	arg, err := json.Marshal(order)
	if err != nil {
		return nil, fmt.Errorf("sandbox cell: %w", err)
	}
	report, childEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sandbox cell: pipe: %w", err)
	}
	defer report.Close()
	p := &Process{done: make(chan struct{}), cmd: &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{helperName, string(arg)},
		Env: []string{}, Dir: "/",
		ExtraFiles:  append([]*os.File{childEnd}, io.Extra...),
		SysProcAttr: helperAttr(c.HostNetwork),
	}}
	if io.In != nil {
		p.cmd.Stdin = io.In
	}
	if io.Out != nil {
		p.cmd.Stdout = io.Out
	}
	if io.Err != nil {
		p.cmd.Stderr = io.Err
	}
	started := make(chan error, 1)
	go p.run(started)
	err = <-started
	childEnd.Close()
	if err != nil {
		return nil, privilege.Namespaces("sandbox cell: its namespaces", err)
	}
	if err := awaitExec(ctx, report); err != nil {
		_ = p.Kill()
		<-p.done
		return nil, fmt.Errorf("sandbox cell for %s: %w", c.Path, err)
	}
	return p, nil
}

// run holds its thread for the life of the child: the parent's death signal
// is sent when the thread that forked ends, not the process (prctl(2)).
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err != nil {
		p.err = err
		return
	}
	p.err = p.cmd.Wait()
}

func helperAttr(hostNetwork bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if !hostNetwork {
		a.Cloneflags |= syscall.CLONE_NEWNET
	}
	if uid := os.Geteuid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// awaitExec reads the helper's report. It is closed empty when the program was executed, because
// the descriptor is close-on-exec.
func awaitExec(ctx context.Context, report *os.File) error {
	limit := time.Now().Add(startLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	_ = report.SetReadDeadline(limit)
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(report, 4096))
	msg := strings.Trim(string(text), aliveByte)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("waiting for the helper to build the cell: %w", err)
	case msg != "":
		return errors.New(msg)
	case len(text) == 0:
		return errors.New("the helper ended without a word (does main call sandbox.Main first?)")
	}
	return nil
}

// PID is the program's process id as the caller sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended and been reaped. Its children are
// gone then too: it is the init of its PID namespace.
func (p *Process) Done() <-chan struct{} { return p.done }

// State is the exit state; valid after Done, nil if it never ran.
func (p *Process) State() *os.ProcessState { return p.cmd.ProcessState }

// Kill ends the program and everything it started, at once.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.PID(), err)
	}
	return nil
}
