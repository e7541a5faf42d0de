// Package torture takes the power away from cards during updates. A real card (User-Mode Linux, our
// supervisor, agent and flash) runs a real RAUC, libubootenv and e2fsprogs on a small system that
// the test puts together from the image of edition debian. The test brings the rest: it needs root,
// and that image in the cache.
package torture

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/toe-project/toe/hostnet/holder"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link/worker"
)

// inside marks a process that has a network namespace of its own.
const inside = "TOE_TORTURE_INSIDE"

func TestMain(m *testing.M) {
	sandbox.Main()
	worker.Main()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case holder.Verb:
			fail(holder.Main())
		case superviseVerb:
			fail(supervise(os.Args[2:]))
		}
	}
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	// The cards' interfaces are in a network that ends with this process.
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	fail(err)
}

// fail ends the process.
func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/torture:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
