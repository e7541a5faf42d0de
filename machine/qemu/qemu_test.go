package qemu

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/arch"
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

func needQEMU(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath(arch.Host().QEMU); err != nil {
		t.Skip("QEMU is not installed: " + err.Error())
	}
}

// spec is a card without network on the vmlinux that TOE_QEMU_KERNEL names.
func spec(t testing.TB, do string) machine.Spec {
	t.Helper()
	needQEMU(t)
	k := os.Getenv("TOE_QEMU_KERNEL")
	if k == "" {
		t.Skip("no kernel: set TOE_QEMU_KERNEL to the path of an uncompressed vmlinux, as test/run does")
	}
	return machine.Spec{Kernel: k, Initrd: trial.Initrd(t), Cmdline: "do=" + do, CPUs: 1, Memory: 128 << 20}
}

const bootLimit = 60 * time.Second // the translator on a busy machine

func TestProbe(t *testing.T) {
	needQEMU(t)
	for _, kind := range []machine.Kind{machine.TCG, machine.KVM} {
		begin := time.Now()
		how, err := New(Config{Kind: kind}).Probe(context.Background())
		took := time.Since(begin)
		t.Logf("%s: %q, %v (took %v)", kind, how, err, took)
		if kind == machine.TCG && err != nil {
			t.Errorf("the translator must work everywhere: %v", err)
		}
		if limit := probeLimit(kind) + bootLimit; took > limit { // the end of the process included
			t.Errorf("the probe of %s took %v, its limit is %v", kind, took, probeLimit(kind))
		}
	}
}

func TestProbeFails(t *testing.T) {
	_, err := New(Config{Kind: machine.TCG, Binary: "/nonexistent/qemu"}).Probe(context.Background())
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/qemu") {
		t.Errorf("missing program: %v", err)
	}
	_, err = New(Config{Kind: machine.TCG, Binary: "/bin/true"}).Probe(context.Background())
	if err == nil || !strings.Contains(err.Error(), "no version") {
		t.Errorf("another program: %v", err)
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		do   string
		want machine.Cause
	}{{"off", machine.PoweredOff}, {"reboot", machine.Rebooted}, {"panic", machine.Panicked}} {
		t.Run(c.do, func(t *testing.T) {
			card := trial.Start(t, New(Config{Kind: machine.TCG}), spec(t, c.do))
			card.Await(t, "trial: up", bootLimit)
			card.Ends(t, c.want, bootLimit)
		})
	}
}

func TestConsoleStopAndKill(t *testing.T) {
	m := New(Config{Kind: machine.TCG})
	s := spec(t, "echo")
	card := trial.Start(t, m, s)
	card.Await(t, "trial: up", bootLimit)
	if _, err := card.Console.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	card.Await(t, `heard "hello"`, 20*time.Second)
	begin := time.Now()
	if err := card.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Stopped, time.Second)
	t.Logf("Stop took %v", time.Since(begin))

	card = trial.Start(t, m, s)
	if err := syscall.Kill(card.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Killed, 5*time.Second)
}

// TestUserNetwork checks that QEMU makes its own NAT inside the cell.
func TestUserNetwork(t *testing.T) {
	s := spec(t, "")
	s.Nets = []machine.Net{{Name: "wan", MAC: []byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Queues: 1, Kind: machine.UserNet}}
	card := trial.Start(t, New(Config{Kind: machine.TCG}), s)
	card.Await(t, "trial: up", bootLimit)
}

func TestStartErrors(t *testing.T) {
	needQEMU(t)
	good := machine.Spec{Name: "x", Kernel: "/bin/true", CPUs: 1, Memory: 64 << 20}
	for _, c := range []struct {
		name, want string
		change     func(*machine.Spec)
	}{
		{"memory", "want a multiple of 1 MiB", func(s *machine.Spec) { s.Memory = 1 << 20 }},
		{"kernel", "/nonexistent", func(s *machine.Spec) { s.Kernel = "/nonexistent" }},
		{"initrd", "/nonexistent", func(s *machine.Spec) { s.Initrd = "/nonexistent" }},
		{"socket", "network device wan", func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan", Socket: "/nonexistent"}} }},
		{"another kind", `kind "vfio", machine tcg has ["vhost-user" "user"]`, func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan", Kind: "vfio"}} }},
		{"no back end of a disk", "disk flash: vhost-user socket", func(s *machine.Spec) { s.Disks = []machine.Disk{{Name: "flash"}} }},
		{"no socket", "want a vhost-user socket", func(s *machine.Spec) { s.Nets = []machine.Net{{Name: "wan", Socket: "/bin/true"}} }},
		{"QEMU refuses", "last words", func(*machine.Spec) {}}, // the kernel is none
		{"CPUs", "takes 64", func(s *machine.Spec) { s.CPUs = 100000 }},
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
			i, err := New(Config{Kind: machine.TCG}).Start(context.Background(), s)
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
