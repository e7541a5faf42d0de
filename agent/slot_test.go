package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/flash"
)

// scriptedPart is a part whose health a test sets.
type scriptedPart struct {
	idle
	state health
}

func (s *scriptedPart) health() []reason {
	return []reason{{"port wan", s.state, "10.0.2.15/24 by DHCP"}}
}

// envFile is a partition env in a file.
type envFile struct{ *os.File }

// trialRig is a slot part on slot B, which is on trial, with one other part.
type trialRig struct {
	*slotPart
	t     *testing.T
	path  string
	other *scriptedPart
	ended chan Action
}

func newTrial(t *testing.T, limit int) *trialRig {
	t.Helper()
	r := &trialRig{t: t, path: filepath.Join(t.TempDir(), "env"), other: &scriptedPart{state: healthy}, ended: make(chan Action, 1)}
	if err := os.WriteFile(r.path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{
		opts: Options{Image: "two"}, log: NewLog(io.Discard), conf: &control.Config{HealthLimit: limit},
		end: func(a Action) { r.ended <- a },
	}
	r.slotPart = newSlotPart(e, "console=ttyS0 root=PARTLABEL=rootfs-b rauc.slot=B quiet")
	r.open = func() (bootEnv, error) {
		f, err := os.OpenFile(r.path, os.O_RDWR, 0)
		return envFile{f}, err
	}
	r.checks, r.pace = t.TempDir(), time.Millisecond
	r.before, r.rememberPace = filepath.Join(t.TempDir(), "degraded"), time.Millisecond
	r.isEnding = func() bool { return false }
	e.parts = []part{r.other, r.slotPart}
	r.write(flash.Env{"BOOT_ORDER": "B A", "BOOT_B_LEFT": "2", "BOOT_A_GOOD": "one"})
	return r
}

func (r *trialRig) write(env flash.Env) {
	r.t.Helper()
	p, err := r.open()
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	if err := flash.WriteEnv(p, env); err != nil {
		r.t.Fatal(err)
	}
}

func (r *trialRig) read() flash.Env {
	r.t.Helper()
	p, err := r.open()
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	env, err := flash.ReadEnv(p)
	if err != nil {
		r.t.Fatal(err)
	}
	return env
}

func (r *trialRig) script(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.checks, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// run starts the part and waits for a state.
func (r *trialRig) run(want health) reason {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(func() { cancel(); r.wg.Wait() })
	r.start(ctx)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got := r.slotPart.health()[0]
		if got.state == want {
			return got
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after 20 s the slot is %v", got)
		}
	}
}

func TestHealthySlotIsMarkedGood(t *testing.T) {
	r := newTrial(t, 30)
	r.script("10-web", "echo fine")
	r.run(healthy)
	env := r.read()
	if state, _ := env.State(flash.B, flash.Held{Digest: "two"}); state != flash.Good || env["BOOT_A_GOOD"] != "one" || env.Left(flash.B) != 3 {
		t.Errorf("%v", env)
	}
	again := newTrial(t, 30)
	again.write(env)
	again.script("10-web", "exit 1")
	if got := again.run(healthy); again.trial {
		t.Errorf("a good slot is on trial: %v", got)
	}
}

// Complaint 7: "it boots" is no health check: the administrator's own checks decide, and their output
// is kept.
func TestAdministratorsCheckDecides(t *testing.T) {
	r := newTrial(t, 1)
	r.script("10-fine", "exit 0")
	r.script("50-web", "echo no page on port 80; echo '\x1b[31mred' >&2; exit 3")
	if err := os.WriteFile(filepath.Join(r.checks, "README"), []byte("not a program"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := r.run(degraded)
	if !strings.HasPrefix(got.detail, "check 50-web: exit status 3 | no page on port 80 | ") || strings.Contains(got.detail, "\x1b") {
		t.Errorf("%q", got.detail)
	}
	if env := r.read(); env["BOOT_B_GOOD"] != "" || env.Left(flash.B) != 2 {
		t.Errorf("%v", env)
	}
}

// A check that hangs is ended, with what it has started.
func TestCheckThatHangs(t *testing.T) {
	r := newTrial(t, 1)
	r.script("50-hang", "echo waiting; sleep 60 & sleep 60")
	began := time.Now()
	if got := r.run(degraded); !strings.Contains(got.detail, "check 50-hang: not done after ") || !strings.Contains(got.detail, "waiting") {
		t.Errorf("%q", got.detail)
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
}

// What the agent itself reports counts, too, and a fault that goes away in time is none.
func TestFaultThatGoesAway(t *testing.T) {
	r := newTrial(t, 60)
	r.other.state = degraded
	got := r.run(starting)
	for deadline := time.Now().Add(10 * time.Second); !strings.HasPrefix(got.detail, "check port wan: ") && time.Now().Before(deadline); {
		got = r.slotPart.health()[0]
	}
	if got.detail != "check port wan: 10.0.2.15/24 by DHCP" {
		t.Errorf("%q", got.detail)
	}
	if env := r.read(); env["BOOT_B_GOOD"] != "" {
		t.Errorf("%v", env)
	}
}

// Complaint 4: a reboot by a person before the health check. A crash of the agent, and a card whose
// attempt has failed, give nothing back.
func TestOrderlyEndGivesTheAttemptBack(t *testing.T) {
	for name, c := range map[string]struct {
		ending bool
		left   int
	}{"the card is taken down": {true, 3}, "the agent alone ends": {false, 2}} {
		r := newTrial(t, 60)
		r.script("50-wait", "exit 1")
		r.isEnding = func() bool { return c.ending }
		r.run(starting)
		r.close()
		if env := r.read(); env.Left(flash.B) != c.left {
			t.Errorf("%s: %d attempts left, want %d", name, env.Left(flash.B), c.left)
		}
	}
}

// A card without a flash has no slot, and its status none.
func TestNoSlot(t *testing.T) {
	r := newTrial(t, 60)
	for _, cmdline := range []string{"", "rauc.slot=C", "rauc.slot=", "xrauc.slot=A"} {
		s := newSlotPart(r.env, cmdline)
		s.open = func() (bootEnv, error) { return nil, errors.New("opened") }
		s.start(t.Context())
		if h := s.health(); len(h) > 0 {
			t.Errorf("%q: %v", cmdline, h)
		}
	}
	r.conf.Rescue = "slot A: empty"
	s := newSlotPart(r.env, "")
	if h := s.health(); len(h) != 1 || h[0].state != degraded || !strings.Contains(h[0].detail, "slot A: empty") {
		t.Errorf("rescue: %v", h)
	}
}

// A port that was degraded before an update does not fail the trial; another component does.
func TestDegradedBeforeIsNoFault(t *testing.T) {
	good := newTrial(t, 30)
	good.write(flash.Marked(flash.B, "two"))
	good.other.state = degraded
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	good.start(ctx)
	for deadline := time.Now().Add(20 * time.Second); len(good.degradedBefore()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("after 20 s nothing is kept")
		}
	}
	cancel()
	good.wg.Wait()

	r := newTrial(t, 30)
	r.before, r.other.state = good.before, degraded
	r.run(healthy)

	r = newTrial(t, 1)
	if err := os.WriteFile(r.before, []byte("port lan\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.other.state = degraded
	if got := r.run(degraded); !strings.Contains(got.detail, "check port wan") {
		t.Errorf("%+v", got)
	}
}
