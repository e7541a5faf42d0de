package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reaperChild tells the test program to be the reaper of TestReaper: it needs
// a process of its own, for it buries every child of its process.
const reaperChild = "TOE_AGENT_TEST_REAPER"

func TestReaper(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), reaperChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// reaperMain adopts orphans as PID 1 does, runs commands of its own all the
// while, and counts what each wait returned and which zombies stayed.
func reaperMain() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	p := newProcs()
	go reapOrphans(p)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 20 {
		wg.Go(func() { errs <- ownChild(p, i) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if zombies() == 0 {
			return 0
		}
	}
	fmt.Println(zombies(), "zombies are left")
	return 1
}

// ownChild leaves an orphan behind and ends with a status of its own, which
// must arrive here and nowhere else.
func ownChild(p *procs, i int) error {
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("(sleep 0.0%d & ) ; exit %d", i%10, i))
	if err := p.start(cmd); err != nil {
		return err
	}
	err := p.wait(cmd)
	var exit *exec.ExitError
	if i == 0 && err == nil || errors.As(err, &exit) && exit.ExitCode() == i {
		return nil
	}
	return fmt.Errorf("child %d: wait said %v", i, err)
}

func zombies() int {
	out, _ := exec.Command("/bin/sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").Output()
	n := 0
	for line := range strings.Lines(string(out)) {
		_, rest, ok := strings.Cut(line, ") ")
		if f := strings.Fields(rest); ok && len(f) > 1 && f[0] == "Z" && f[1] == fmt.Sprint(os.Getpid()) {
			n++
		}
	}
	return n
}
