package agent

import (
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// procs starts the agent's children and, as PID 1, reaps orphans.
//
// An orphan becomes a child of PID 1, which must wait for it. A wait for any
// child would take the exit status of the agent's own children from their
// exec.Cmd. So the reaper peeks first (WNOWAIT leaves the zombie) and skips the
// children that were started here. Starting and peeking exclude each other, so
// that no child can exit unregistered.
//
// With init and agent as two processes none of this would be needed, at the cost
// of a second Go runtime at every start.
type procs struct {
	mu  sync.Mutex
	own map[int]bool
}

func newProcs() *procs { return &procs{own: map[int]bool{}} }

// start is cmd.Start.
func (p *procs) start(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.own[cmd.Process.Pid] = true
	return nil
}

// wait is cmd.Wait. It then reaps the zombies behind this one in the kernel's
// list.
func (p *procs) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	p.mu.Lock()
	delete(p.own, cmd.Process.Pid)
	p.mu.Unlock()
	p.reap()
	return err
}

// reap reaps zombies up to the first that was started here.
func (p *procs) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		pid := peekZombie()
		if pid <= 0 || p.own[pid] {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}
