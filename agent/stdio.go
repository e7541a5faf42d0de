package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stdio is the agent's end of a command's input and output.
type stdio struct {
	files []*os.File     // to close when the client is gone
	out   sync.WaitGroup // until all output has been sent
}

// startTerminal starts a command on a terminal of its own.
func (s *session) startTerminal(cmd *exec.Cmd) error {
	master, slave, err := openTerminal(s.term.Columns, s.term.Rows)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = slave.Close() }()
	cmd.Env = append(s.env, "TERM="+s.term.Term)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := s.procs.start(cmd); err != nil {
		_ = master.Close()
		return err
	}
	s.cmd, s.master = cmd, master
	return nil
}

// startPipes starts a command on three pipes. They are not exec.Cmd's, whose Wait
// would wait for a client that never closes its input.
func (s *session) startPipes(cmd *exec.Cmd) error {
	var theirs, ours []*os.File
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(theirs)
			closeAll(ours)
			return fmt.Errorf("pipe: %w", err)
		}
		if i == 0 {
			theirs, ours = append(theirs, r), append(ours, w)
		} else {
			theirs, ours = append(theirs, w), append(ours, r)
		}
	}
	defer closeAll(theirs)
	cmd.Env = s.env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.procs.start(cmd); err != nil {
		closeAll(ours)
		return err
	}
	s.cmd, s.pipes = cmd, ours
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// follow copies between channel and command until the command has exited and its
// output is sent, or the client is gone. It returns how the command exited.
func (s *session) follow(ctx context.Context) error {
	x := s.copyAll()
	gone := context.AfterFunc(ctx, func() {
		s.kill(syscall.SIGHUP)
		closeAll(x.files)
		time.AfterFunc(hangUpTime, func() { s.kill(syscall.SIGKILL) })
	})
	err := s.procs.wait(s.cmd)
	close(s.ended)
	if s.master != nil {
		_ = s.master.SetReadDeadline(time.Now().Add(drainTime)) // of a read under way
	}
	x.out.Wait()
	gone()
	closeAll(x.files)
	return err
}

func (s *session) copyAll() *stdio {
	x := &stdio{}
	if s.master != nil {
		x.files = []*os.File{s.master}
		x.out.Go(s.copyTerminal)
		go func() { _, _ = io.Copy(s.master, s.ch) }()
		return x
	}
	x.files = s.pipes
	go func() {
		_, _ = io.Copy(s.pipes[0], s.ch)
		_ = s.pipes[0].Close() // the command sees the end of its input
	}()
	x.out.Go(func() { _, _ = io.Copy(s.ch, s.pipes[1]) })
	x.out.Go(func() { _, _ = io.Copy(s.ch.Stderr(), s.pipes[2]) })
	return x
}

// copyTerminal sends the terminal's output until the terminal is closed, or its
// command has exited and drainTime passes without output: the last output is
// still buffered then, and a background process may hold the terminal open
// without limit.
func (s *session) copyTerminal() {
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-s.ended:
			_ = s.master.SetReadDeadline(time.Now().Add(drainTime))
		default:
		}
		n, err := s.master.Read(buf)
		if n > 0 {
			if _, werr := s.ch.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
