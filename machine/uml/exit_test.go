package uml

import (
	"syscall"
	"testing"

	"github.com/toe-project/toe/internal/tail"
	"github.com/toe-project/toe/machine"
)

// TestExitOf checks that only the wait status decides how a card ended, not its output.
func TestExitOf(t *testing.T) {
	exited := func(status int) syscall.WaitStatus { return syscall.WaitStatus(status << 8) }
	for _, c := range []struct {
		ws      syscall.WaitStatus
		stopped bool
		want    machine.Cause
	}{
		{exited(0), false, machine.PoweredOff},
		{exited(rebootStatus), false, machine.Rebooted},
		{exited(panicStatus), false, machine.Panicked},
		{exited(1), false, machine.Crashed},
		{syscall.WaitStatus(syscall.SIGSEGV), false, machine.Panicked},
		{syscall.WaitStatus(syscall.SIGKILL), false, machine.Killed},
		{syscall.WaitStatus(syscall.SIGKILL), true, machine.Stopped},
	} {
		for _, said := range []string{"", "Failed to exec kernel: No such file or directory\n", "Kernel panic - not syncing\n"} {
			var words tail.Buffer
			_, _ = words.Write([]byte(said))
			if got := exitOf(c.ws, c.stopped, &words); got.Cause != c.want {
				t.Errorf("wait status %#x after %q: %v, want %s", int(c.ws), said, got, c.want)
			}
		}
	}
}
