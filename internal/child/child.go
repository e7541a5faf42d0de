// Package child starts processes that die with this one.
package child

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// starter runs jobs on one thread that never ends. The kernel ties
// PR_SET_PDEATHSIG to the thread that started the child, not to its process.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// Start starts a process that the kernel kills when this one ends, however it
// ends, and that a terminal's Ctrl-C does not reach: it leads a session of its own.
func Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	return Tie(cmd, syscall.SIGKILL)
}

// Tie starts a process that gets sig when this one ends. It leaves the other
// attributes of cmd alone.
func Tie(cmd *exec.Cmd, sig syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = sig
	errc := make(chan error)
	starter() <- func() { errc <- cmd.Start() }
	return <-errc
}
