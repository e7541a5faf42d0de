package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
)

// fakeDebian is a card's Debian with systemd, of one unit, in a folder.
type fakeDebian struct {
	serviceSystem
	said      []string // commands, without those that only ask
	active    string
	restarts  int
	refuse    string // the checker's words
	dies      string // a restart ends so where the file has this text
	installed bool
	apt       error
	users     []string
}

func newFakeDebian(t *testing.T) (*fakeDebian, *Agent) {
	f := &fakeDebian{active: "inactive", installed: true}
	dir := t.TempDir()
	f.serviceSystem = serviceSystem{
		dir: filepath.Join(dir, "service"), units: filepath.Join(dir, "units"), installed: filepath.Join(dir, "installed"),
		policy: filepath.Join(dir, "policy"), ready: func() bool { return true }, run: f.answer, pause: time.Millisecond,
		users:   func(context.Context, control.ServicePort) []string { return f.users },
		listens: func(control.ServicePort) bool { return f.active == "active" },
	}
	e := &env{
		log: NewLog(t.Output()), run: t.Context(), opts: Options{Service: true},
		conf: &control.Config{Name: "now", Mode: control.ModeEndpoint},
	}
	services := &servicesPart{env: e, sys: f.serviceSystem, state: map[string]serviceState{}}
	e.parts = []part{services}
	return f, &Agent{env: e}
}

func (f *fakeDebian) answer(_ context.Context, _ time.Duration, words ...string) (string, error) {
	line := strings.Join(words, " ")
	switch {
	case strings.HasPrefix(line, "systemctl show"):
		return fmt.Sprintf("Id=x.service\nActiveState=%s\nNRestarts=%d\nResult=success\nExecMainCode=2\nExecMainStatus=9\n", f.active, f.restarts), nil
	case strings.HasPrefix(line, "dpkg-query"):
		if f.installed {
			return "pack 1.2-3 installed\n", nil
		}
		return "", nil
	case strings.HasPrefix(line, "journalctl"):
		return "the log with s3cret\n", nil
	case words[0] == "unshare":
		f.said = append(f.said, "check")
		if f.refuse != "" {
			return f.refuse, errors.New("exit status 1")
		}
		return "", nil
	case strings.Contains(line, "apt-get"):
		f.said = append(f.said, "apt "+words[len(words)-1])
		f.installed = f.apt == nil
		return "no space left on device", f.apt
	}
	f.said = append(f.said, line)
	switch {
	case strings.HasPrefix(line, "systemctl restart"), words[0] == "reload":
		text, _ := os.ReadFile(filepath.Join(f.dir, "x", "x.conf"))
		if f.dies != "" && strings.Contains(string(text), f.dies) {
			f.active = "failed"
			return "", nil
		}
		f.active = "active"
	case strings.HasPrefix(line, "systemctl stop"):
		f.active = "inactive"
	}
	return "", nil
}

// withService is a configuration with one service whose file has this text.
func withService(t *testing.T, text string) *control.Config {
	c := valid(t)
	c.Services = []control.Service{{
		Name: "x", Packages: []string{"pack"}, Unit: "x.service", Check: []string{"checker"}, Reload: []string{"reload"},
		Files: []control.ServiceFile{{Name: "x.conf", Text: text, Secret: true}, {Name: control.UnitDropIn, Text: "[Unit]\n"}},
		Ports: []control.ServicePort{{Protocol: control.TCP, Port: 8080}}, Hide: []string{"s3cret"},
	}}
	return c
}

func (f *fakeDebian) text(t *testing.T) string {
	t.Helper()
	path := filepath.Join(f.dir, "x", "x.conf")
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("a file with a secret has mode %v", st.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestService: a service is started, changed by its reload, and removed. Nothing runs twice.
func TestService(t *testing.T) {
	f, a := newFakeDebian(t)
	for _, c := range []struct {
		what string
		conf *control.Config
		said []string
		text string
	}{
		{"start", withService(t, "one s3cret"), []string{"check", "check", "systemctl daemon-reload", "systemctl restart x.service"}, "one s3cret"},
		{"the same", withService(t, "one s3cret"), nil, "one s3cret"},
		{"change", withService(t, "two"), []string{"check", "check", "reload"}, "two"},
		{"remove", valid(t), []string{"systemctl stop x.service", "systemctl daemon-reload"}, ""},
	} {
		f.said = nil
		if _, err := a.Apply(t.Context(), c.conf); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if !slices.Equal(f.said, c.said) {
			t.Errorf("%s: %q, want %q", c.what, f.said, c.said)
		}
		if got := f.text(t); got != c.text {
			t.Errorf("%s: the file has %q, want %q", c.what, got, c.text)
		}
	}
	left, _ := filepath.Glob(filepath.Join(f.units, "*"))
	if more, _ := filepath.Glob(filepath.Join(f.dir, "*")); len(left)+len(more) > 0 {
		t.Errorf("left behind: %q %q", left, more)
	}
}

// TestServiceUnitFiles: a change takes away the files of systemd's that the old service had, and an undo
// those that the new one brought; a unit that is not wanted any longer is stopped.
func TestServiceUnitFiles(t *testing.T) {
	f, a := newFakeDebian(t)
	with := func(text string, files ...control.ServiceFile) *control.Config {
		c := withService(t, text)
		c.Services[0].Files = append(c.Services[0].Files[:1], files...)
		return c
	}
	dropIn := control.ServiceFile{Name: control.UnitDropIn, Text: "[Service]\n"}
	path := filepath.Join(f.units, "x.service.d", "60-toe.conf")
	there := func() bool { _, err := os.Stat(path); return err == nil }
	if _, err := a.Apply(t.Context(), with("one", dropIn)); err != nil || !there() {
		t.Fatalf("a drop-in: %v, it is there: %v", err, there())
	}
	if _, err := a.Apply(t.Context(), with("two")); err != nil || there() {
		t.Errorf("without it: %v, it is there: %v", err, there())
	}
	f.dies = "bad"
	if _, err := a.Apply(t.Context(), with("bad", dropIn)); err == nil || there() {
		t.Errorf("a program that dies with it: %v, it is there: %v", err, there())
	}
	c := with("three")
	c.Services[0].Unit, f.said = "y.service", nil
	_, _ = a.Apply(t.Context(), c)
	if !slices.Contains(f.said, "systemctl stop x.service") {
		t.Errorf("another unit: %q", f.said)
	}
}

// TestServiceFaults: whatever goes wrong, the old files are in force, the program runs, and the error
// says why without the secret.
func TestServiceFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(f *fakeDebian)
		want  string
	}{
		"the checker refuses": {func(f *fakeDebian) { f.refuse = "x.conf:1: s3cret is no word\n" },
			"service x: checker does not accept it: exit status 1: x.conf:1: ******** is no word"},
		"the program dies":       {func(f *fakeDebian) { f.dies = "bad" }, "service x: x.service ended (signal 9): the log with ********"},
		"the package is missing": {func(f *fakeDebian) { f.installed, f.apt = false, errors.New("exit status 100") }, "package pack is missing, and cannot be installed: apt-get update: exit status 100: no space left"},
		"no folder can be made": {func(f *fakeDebian) {
			if err := os.WriteFile(filepath.Join(f.dir, "x.new"), nil, 0o600); err != nil {
				panic(err)
			}
			f.refuse = "still checked"
		}, "still checked"}, // what is in the way is removed
	} {
		t.Run(name, func(t *testing.T) {
			f, a := newFakeDebian(t)
			if _, err := a.Apply(t.Context(), withService(t, "good")); err != nil {
				t.Fatal(err)
			}
			c.fault(f)
			_, err := a.Apply(t.Context(), withService(t, "bad s3cret"))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %v, want %q", err, c.want)
			}
			f.apt, f.refuse = nil, ""
			if got := f.text(t); got != "good" || f.active != "active" {
				t.Errorf("the file has %q, the unit is %s", got, f.active)
			}
			if name == "the package is missing" {
				return // of the old one, too
			}
			if h := a.health(); len(h) != 1 || h[0].state != healthy {
				t.Errorf("health %v", h)
			}
		})
	}
}

// TestServicePortInUse: another program has the port, so nothing is changed.
func TestServicePortInUse(t *testing.T) {
	f, a := newFakeDebian(t)
	f.users = []string{"nginx (process 7)"}
	_, err := a.Apply(t.Context(), withService(t, "good"))
	if err == nil || !strings.Contains(err.Error(), "service x: tcp port 8080 is in use by nginx (process 7)") || f.said != nil {
		t.Errorf("%v, %q", err, f.said)
	}
}

// TestServiceOnMicro: a card without systemd refuses.
func TestServiceOnMicro(t *testing.T) {
	f, a := newFakeDebian(t)
	a.opts.Service = false
	if _, err := a.Apply(t.Context(), withService(t, "good")); err == nil || !strings.Contains(err.Error(), "edition micro") || f.said != nil {
		t.Errorf("%v, %q", err, f.said)
	}
}

// TestServiceWithTheCard: the service of the configuration starts with the card, again and again until
// it works, and an agent that was started anew leaves a program alone that runs.
func TestServiceWithTheCard(t *testing.T) {
	f, a := newFakeDebian(t)
	a.conf = withService(t, "good")
	s := partOf[*servicesPart](a.env)
	f.refuse = "not yet"
	if s.bring("x") {
		t.Error("a service that its checker refuses runs")
	}
	if h := a.health(); len(h) != 1 || h[0].state != degraded || !strings.Contains(h[0].detail, "not yet") {
		t.Errorf("health %v", h)
	}
	f.refuse = ""
	s.bringUp(t.Context())
	if h := a.health(); h[0].state != healthy || !strings.Contains(h[0].detail, "pack 1.2-3 of the image") {
		t.Errorf("health %v", h)
	}
	f.said = nil
	s.state = map[string]serviceState{} // another agent
	s.bringUp(t.Context())
	if f.said != nil || a.health()[0].state != healthy {
		t.Errorf("%q, health %v", f.said, a.health())
	}
	// The program is killed, and systemd starts it again.
	f.restarts = 2
	s.look()
	if h := a.health(); h[0].state != healthy || !strings.Contains(h[0].detail, "restarted 2 times, the last time: signal 9") {
		t.Errorf("health %v", h)
	}
	f.active = "activating"
	s.look()
	if h := a.health(); h[0].state != degraded || !strings.Contains(h[0].detail, "x.service is activating") {
		t.Errorf("health %v", h)
	}
}

// TestServiceInstalls: a missing package is installed, and the status says so.
func TestServiceInstalls(t *testing.T) {
	f, a := newFakeDebian(t)
	f.installed = false
	if _, err := a.Apply(t.Context(), withService(t, "good")); err != nil {
		t.Fatal(err)
	}
	if h := a.health(); !strings.Contains(h[0].detail, "pack 1.2-3 installed on the card") {
		t.Errorf("health %v", h)
	}
	if want := []string{"apt --error-on=any", "apt pack", "systemctl disable x.service"}; !slices.Equal(f.said[:3], want) {
		t.Errorf("%q, want %q first", f.said, want)
	}
	if _, err := os.Stat(f.policy); err == nil {
		t.Error("Debian's packages still may not start their programs")
	}
}

// TestServiceRules: the firewall lets a service in from the ports that it is for.
func TestServiceRules(t *testing.T) {
	_, a := newFakeDebian(t)
	c := withService(t, "good")
	c.Services[0].Ports[0].From = []string{"wan"}
	if r := a.rulesOf(c); len(r.opened) != 1 || r.opened[0].from != "wan" || r.opened[0].port != 8080 {
		t.Errorf("%+v", r)
	}
}
