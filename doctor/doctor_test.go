package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

func host(t *testing.T, machines ...machine.Machine) Host {
	dir, err := os.MkdirTemp("", "toe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Host{Machines: machines, Dirs: store.Dirs{
		State: filepath.Join(dir, "s"), Runtime: filepath.Join(dir, "r"), Cache: filepath.Join(dir, "c")}}
}

func TestKVMIsBelievedOnlyWhenAGuestRuns(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("no /dev/kvm here")
	}
	broken := &fake.Machine{Name: machine.KVM, ProbeErr: errors.New("the guest printed nothing within 2 s")}
	if r := checkKVM(context.Background(), host(t, broken)); r.State == Pass || r.Fix == "" {
		t.Errorf("a device that opens and runs no guest: %+v", r)
	}
	if os.Geteuid() == 0 {
		if r := checkKVM(context.Background(), host(t, &fake.Machine{Name: machine.KVM})); r.State != Pass {
			t.Errorf("a guest that runs: %+v", r)
		}
	}
}

func TestUMLThatIsNotBuiltSaysHow(t *testing.T) {
	r := checkUML(context.Background(), host(t, &fake.Machine{Name: machine.UML}))
	if r.State != Warn || !strings.Contains(r.Fix, "toe firmware build --machine uml") {
		t.Errorf("%+v", r)
	}
}

func TestLeftovers(t *testing.T) {
	h := host(t)
	if r := checkLeftovers(context.Background(), h); r.State != Pass {
		t.Errorf("an empty host: %+v", r)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dead := store.Temporary(gone.Process.Pid).Name
	for _, name := range []string{"before-reboot", "edge", dead, store.Temporary(os.Getpid()).Name} {
		if _, err := h.Dirs.Create(spec.Default(name), t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	mine, err := h.Dirs.Open(store.Temporary(os.Getpid()).Name)
	if err != nil {
		t.Fatal(err)
	}
	claim, err := mine.Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Release()
	last := `{"state":"running","supervisor_pid":1,"boot":"` + boot(t) + `"}`
	if err := os.WriteFile(h.Dirs.Card("edge").Last(), []byte(last), 0o600); err != nil {
		t.Fatal(err)
	}
	journal := `{"entries":[{"id":1,"kind":"file","card":"before-reboot","boot":"another","change":{"path":"/etc/resolv.conf"}}]}`
	if err := os.WriteFile(h.Dirs.Card("before-reboot").Journal(), []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	r := checkLeftovers(context.Background(), h)
	if r.State != Warn || r.Fix != "toe down before-reboot; toe down edge; toe rm "+dead {
		t.Errorf("a killed supervisor and a card of a dead command: %+v", r)
	}
}

func boot(t *testing.T) string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestEveryBadResultHasAFix(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no program is installed
	for _, r := range Run(context.Background(), host(t)) {
		if (r.State == Fail || r.State == Warn) && r.Fix == "" {
			t.Errorf("%s: %s has no fix", r.Name, r.Detail)
		}
		if r.Name == "" || r.Detail == "" {
			t.Errorf("empty: %+v", r)
		}
	}
}

func TestMachineVerdict(t *testing.T) {
	for _, c := range []struct {
		kvm, uml, qemu State
		want           State
		says           string
	}{
		{Pass, Warn, Pass, Pass, "kvm"},
		{Warn, Pass, Pass, Pass, "uml"},
		{Skip, Warn, Pass, Warn, "tcg"},
		{Skip, Warn, Fail, Fail, "no kind of machine works"},
	} {
		r := judgeMachines([]Result{{Name: "kvm", State: c.kvm}, {Name: "uml", State: c.uml}, {Name: "qemu", State: c.qemu}})
		if r.State != c.want || !strings.Contains(r.Detail, c.says) {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}
