package agent

import (
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// procs starts the agent's children and, as PID 1, buries everybody's.
//
// Whatever loses its parent becomes a child of PID 1 and has to be waited
// for, but a wait for any child would take the exit status of the agent's own
// away from their exec.Cmd. So the reaper looks first (WNOWAIT leaves the
// zombie where it is) and passes over those that were started here. Starting
// and looking exclude each other, so that no child can end unregistered.
//
// A second process, init proper with the agent as its child, would need none
// of this and cost a second Go runtime at every start.
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

// wait is cmd.Wait. Zombies that stood behind this one in the kernel's list
// are buried after it.
func (p *procs) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	p.mu.Lock()
	delete(p.own, cmd.Process.Pid)
	p.mu.Unlock()
	p.reap()
	return err
}

// reap buries the dead children that nobody else waits for, until the first
// that somebody does wait for.
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
