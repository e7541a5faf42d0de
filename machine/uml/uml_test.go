package uml

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link/worker"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/internal/trial"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	worker.Main()
	os.Exit(m.Run())
}

// kernel is a built User-Mode Linux.
func kernel(t testing.TB) string {
	t.Helper()
	k := os.Getenv("TOE_UML_KERNEL")
	if k == "" {
		t.Skip("no User-Mode Linux kernel: set TOE_UML_KERNEL to the path of one, as test/run does")
	}
	return k
}

func TestProbe(t *testing.T) {
	m := New(Config{Kernel: kernel(t)})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	how, err := m.Probe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s (took %v)", how, time.Since(begin))
}

func TestProbeFails(t *testing.T) {
	for _, c := range []struct{ name, kernel, want string }{
		{"none built", "", "no kernel is built"},
		{"missing", "/nonexistent/linux", "/nonexistent/linux"},
		{"not a kernel", "/bin/true", "/bin/true"},
	} {
		_, err := New(Config{Kernel: c.kernel}).Probe(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that names %q", c.name, err, c.want)
		}
	}
}

func spec(t testing.TB, do string) machine.Spec {
	t.Helper()
	return machine.Spec{Kernel: kernel(t), Initrd: trial.Initrd(t), Cmdline: "do=" + do, CPUs: 1, Memory: 64 << 20}
}

const bootLimit = 15 * time.Second // 0.2 s where nothing else runs

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		do   string
		want machine.Cause
	}{{"off", machine.PoweredOff}, {"reboot", machine.Rebooted}, {"panic", machine.Panicked}} {
		t.Run(c.do, func(t *testing.T) {
			card := trial.Start(t, New(Config{}), spec(t, c.do))
			card.Await(t, "trial: up", bootLimit)
			card.Ends(t, c.want, 10*time.Second)
		})
	}
}

// TestStartTime measures from the call of Start to the first line of the
// first user process, the cell included.
func TestStartTime(t *testing.T) {
	s := spec(t, "")
	begin := time.Now()
	card := trial.Start(t, New(Config{}), s)
	started := time.Since(begin)
	card.Await(t, "trial: up", bootLimit)
	t.Logf("cell ready and kernel executed after %v, first user process after %v", started, time.Since(begin))
}

func TestConsoleStopAndKill(t *testing.T) {
	s := spec(t, "echo")
	card := trial.Start(t, New(Config{}), s)
	card.Await(t, "trial: up", bootLimit)
	if _, err := card.Console.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	card.Await(t, `heard "hello"`, 5*time.Second)
	if err := card.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Stopped, time.Second)

	card = trial.Start(t, New(Config{}), s)
	if err := syscall.Kill(card.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Killed, 5*time.Second)
}

func TestStartErrors(t *testing.T) {
	good := machine.Spec{Name: "x", Kernel: "/bin/true", CPUs: 1, Memory: 64 << 20}
	for _, c := range []struct {
		name, want string
		change     func(*machine.Spec)
	}{
		{"memory", "at least 32 MiB", func(s *machine.Spec) { s.Memory = 1 }},
		{"kernel", "/nonexistent", func(s *machine.Spec) { s.Kernel = "/nonexistent" }},
		{"kernel is no program", "executable", func(s *machine.Spec) { s.Kernel = "/etc/passwd" }},
		{"initrd", "/nonexistent", func(s *machine.Spec) { s.Initrd = "/nonexistent" }},
		{"no back end", "vhost-user socket", func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan"}} }},
		{"user network", `kind "user", machine uml has ["vhost-user"]`, func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan", Kind: machine.UserNet}} }},
		{"no back end of a disk", "disk flash: vhost-user socket", func(s *machine.Spec) { s.Disks = []machine.Disk{{Name: "flash"}} }},
		{"no socket", "want a vhost-user socket", func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan", Socket: "/bin/true"}} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good
			c.change(&s)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			s.Console = w
			i, err := New(Config{}).Start(context.Background(), s)
			if err == nil {
				_ = i.Stop(context.Background())
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}
