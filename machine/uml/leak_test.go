package uml

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/machine/internal/trial"
)

// cards returns the processes whose argument 0 is that of a card of this name, and the processes
// that the kernel keeps for the card's programs.
func cards(name string) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	spaces := map[string]bool{}
	cmd := func(dir string) string {
		b, _ := os.ReadFile(dir + "/cmdline")
		first, _, _ := bytes.Cut(b, []byte{0})
		return string(first)
	}
	for _, d := range dirs {
		if cmd(d) == "toe-card-"+name {
			if ns, err := os.Readlink(d + "/ns/pid"); err == nil {
				spaces[ns] = true
			}
		}
	}
	for _, d := range dirs {
		if ns, err := os.Readlink(d + "/ns/pid"); err == nil && spaces[ns] {
			found = append(found, d+" "+cmd(d))
		}
	}
	return found
}

func gone(t *testing.T, name string) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := cards(name)
		if len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("processes are left: %s", strings.Join(left, ", "))
		}
	}
}

func TestStopLeavesNothing(t *testing.T) {
	s := spec(t, "echo")
	s.Name = fmt.Sprintf("stop%d", os.Getpid())
	card := trial.Start(t, New(Config{}), s)
	card.Await(t, "trial: up", bootLimit)
	if n := len(cards(s.Name)); n < 2 {
		t.Fatalf("%d processes of the card found while it runs, want the kernel and one for its init", n)
	}
	if err := card.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := cards(s.Name); len(left) != 0 { // at once: Stop has waited for them
		t.Errorf("processes are left: %s", strings.Join(left, ", "))
	}
}

const parentEnv = "TOE_UML_TEST_PARENT"

// TestParent is not a test. It is the process that TestDiesWithParent kills.
func TestParent(t *testing.T) {
	name := os.Getenv(parentEnv)
	if name == "" {
		t.Skip("only as a child of TestDiesWithParent")
	}
	s := spec(t, "echo")
	s.Name = name
	card := trial.Start(t, New(Config{}), s)
	card.Await(t, "trial: up", bootLimit)
	fmt.Println("parent: ready")
	time.Sleep(time.Minute)
}

func TestDiesWithParent(t *testing.T) {
	kernel(t)
	name := fmt.Sprintf("orphan%d", os.Getpid())
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestParent$", "-test.v")
	cmd.Env = append(os.Environ(), parentEnv+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(said.String(), "parent: ready") {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			t.Fatalf("the parent ended first: %s", said.String())
		}
	}
	if len(cards(name)) == 0 {
		t.Fatal("no process of the card found before the kill")
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	gone(t, name)
}

// TestTwenty starts twenty cards at once, checks that they burn no CPU when idle, and stops them.
func TestTwenty(t *testing.T) {
	if testing.Short() {
		t.Skip("twenty kernels are too much for -short")
	}
	s := spec(t, "")
	begin := time.Now()
	all := make([]*trial.Card, 20)
	var wg sync.WaitGroup
	for n := range all {
		one := s
		one.Name = fmt.Sprintf("many%d", n)
		all[n] = trial.Start(t, New(Config{}), one)
		wg.Go(func() { all[n].Await(t, "trial: up", 60*time.Second) })
	}
	wg.Wait()
	t.Logf("20 cards up after %v", time.Since(begin))
	time.Sleep(time.Second) // let boot work settle
	before := cpu(t, all)
	time.Sleep(3 * time.Second)
	used := cpu(t, all) - before
	t.Logf("20 idle cards used %v of CPU in 3 s", used)
	if used > 1200*time.Millisecond { // two percent of a CPU each; a spinning card uses 3 s
		t.Errorf("20 idle cards used %v of CPU in 3 s, want next to none", used)
	}
}

// cpu returns the CPU time of the cards' kernels (proc_pid_stat(5), utime and stime, in ticks of
// 10 ms).
func cpu(t *testing.T, all []*trial.Card) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, c := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.PID()))
		if err != nil {
			t.Fatal(err)
		}
		var u, s int64
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		_, _ = fmt.Sscan(f[11], &u)
		_, _ = fmt.Sscan(f[12], &s)
		sum += time.Duration(u+s) * 10 * time.Millisecond
	}
	return sum
}
