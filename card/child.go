package card

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Children of a supervisor die with it. The kernel ties that to the thread
// that started them, not to the process, so all are started by one thread
// that never ends.
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

// startChild starts a process that is killed when this one ends, however that
// is, and that a terminal's Ctrl-C does not reach.
func startChild(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setsid = true
	errc := make(chan error)
	starter() <- func() { errc <- cmd.Start() }
	return <-errc
}
