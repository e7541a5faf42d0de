package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/rom/romtest"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// fakeDisk serves nothing.
type fakeDisk struct {
	w    *scene
	quit chan struct{}
	once sync.Once
}

func (d *fakeDisk) Serve(context.Context) error { <-d.quit; return nil }
func (d *fakeDisk) WorkerPID() int              { return 0 }
func (d *fakeDisk) Size() int64                 { return 1 << 20 }
func (d *fakeDisk) Stats() (s disk.Stats) {
	s.Flushes = 7
	if d.w.step(context.Background(), "disk stats") != nil {
		s.Lost = 1
	}
	return s
}
func (d *fakeDisk) Close() error {
	d.once.Do(func() { close(d.quit); d.w.opened("disk", -1) })
	return nil
}

// flashParts are those of a card with a flash.
func (w *scene) flashParts() Parts {
	p := w.parts()
	p.Limits.Hang = 200 * time.Millisecond
	p.Flash = func(ctx context.Context, c *store.Card, _ machine.Kind) (*rom.ROM, error) {
		if err := w.step(ctx, "flash"); err != nil {
			return nil, err
		}
		return rom.Open(c.Paths)
	}
	p.Disk = func(Device, string, func(string)) (DiskKeeper, error) {
		if err := w.step(context.Background(), "disk"); err != nil {
			return nil, err
		}
		w.opened("disk", 1)
		return &fakeDisk{w: w, quit: make(chan struct{})}, nil
	}
	return p
}

// flashCard is a card with release one in slot A, good, and release two in slot B, on trial.
func flashCard(t *testing.T) (c *store.Card, digest string) {
	c = storetest.Card(t, "firmware: {health_limit: 5}\n")
	romtest.Create(t, c.Paths, "one", machine.Fake)
	romtest.Change(t, c.Paths, flash.Env{"BOOT_LAST": "A"})
	return c, romtest.Install(t, c.Paths, flash.B, "two", machine.Fake)
}

// slots are the slots that were started, by the machine's kernel arguments.
func (w *scene) slots() string {
	var all []string
	for _, s := range w.machine.Specs() {
		_, slot, ok := strings.Cut(s.Cmdline, "rauc.slot=")
		if !ok {
			slot = "rescue"
		}
		all = append(all, slot)
	}
	return strings.Join(all, " ")
}

// entries returns the firmware history, "what slot" each.
func entries(t *testing.T, c *store.Card) (all []string, events []status.FirmwareEvent) {
	t.Helper()
	events, torn, err := rom.History(c.Paths)
	if err != nil || torn > 0 {
		t.Fatalf("history: %d lines torn, %v", torn, err)
	}
	for _, e := range events {
		all = append(all, strings.TrimSpace(e.What+" "+e.Slot))
	}
	return all, events
}

// trialReply is an agent that says what the state of its slot is.
func trialReply(state cardpb.Health, detail string) *cardpb.StatusResponse {
	st := healthyReply()
	r := &cardpb.Reason{Component: "slot", State: state, Detail: detail}
	st.Components = append(st.Components, r)
	if state != cardpb.Health_HEALTH_HEALTHY {
		st.Health, st.Reasons = state, append(st.Reasons, r)
	}
	return st
}

func TestSlotOfTheFlashIsStarted(t *testing.T) {
	w := newScene()
	c := storetest.Card(t, "")
	romtest.Create(t, c.Paths, "one", machine.Fake)
	var got *control.Config
	var img Image
	parts := w.flashParts()
	parts.Initrd = func(_ *store.Card, i Image, cfg *control.Config) error { img, got = i, cfg; return nil }
	r := startParts(t, w, c, parts)
	st := r.await("health", inState(status.Healthy))
	spec := w.machine.Specs()[0]
	if spec.Cmdline != "root=PARTLABEL=rootfs-a rauc.slot=A" || len(spec.Disks) != 1 || spec.Disks[0].Socket != c.Paths.Vhost("flash") {
		t.Errorf("the machine was started with %q and disks %v", spec.Cmdline, spec.Disks)
	}
	if img.Slot != "A" || img.Version != "7.3-one" || got.Firmware != "7.3-one" || got.HealthLimit != 120 || got.Rescue != "" {
		t.Errorf("image %+v, configuration %+v", img, got)
	}
	if st.Firmware.Version != "7.3-one" || st.Firmware.Edition != "debian" || st.Firmware.Slot != "A" || st.Firmware.Trial {
		t.Errorf("status %+v", st.Firmware)
	}
	r.stop()
	if err := r.wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("left open: %v", leaks)
	}
}

// Complaint 2: quick power cycles of a good slot.
func TestPowerCyclesOfAGoodSlot(t *testing.T) {
	w := newScene()
	c := storetest.Card(t, "")
	romtest.Create(t, c.Paths, "one", machine.Fake)
	r := startParts(t, w, c, w.flashParts())
	for n := range 6 {
		r.await("health", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == n })
		w.machine.Instances()[n].End(machine.Exit{Cause: machine.Killed})
	}
	r.await("health", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == 6 })
	if got := w.slots(); strings.Contains(got, "B") || strings.Contains(got, "rescue") {
		t.Errorf("started %s", got)
	}
	if env := romtest.Env(t, c.Paths); env.Left(flash.A) != flash.Attempts {
		t.Errorf("%v", env)
	}
}

// A slot on trial that its card marks good is kept.
func TestTrialThatPasses(t *testing.T) {
	w := newScene()
	c, digest := flashCard(t)
	w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "on trial: waiting for port wan")
	r := startParts(t, w, c, w.flashParts())
	r.await("the trial", func(st status.Status) bool { return st.Firmware.Slot == "B" && st.Firmware.Trial && st.Stage == "" })
	romtest.Change(t, c.Paths, flash.Marked(flash.B, digest))
	w.agent.set(healthyReply(), false)
	r.await("the verdict", func(st status.Status) bool { return st.Firmware.Slot == "B" && !st.Firmware.Trial })
	if got := w.slots(); got != "B" {
		t.Errorf("started %s", got)
	}
	if got, _ := entries(t, c); !slices.Equal(got, []string{"started B", "good B"}) {
		t.Errorf("history %v", got)
	}
}

// fallsBack waits until the good slot runs again after the attempts of the other one.
func fallsBack(t *testing.T, w *scene, r *runningCard, c *store.Card) []status.FirmwareEvent {
	t.Helper()
	r.await("the fallback", func(st status.Status) bool {
		if strings.HasSuffix(w.slots(), "A") {
			w.agent.set(healthyReply(), false)
		}
		return st.State == status.Healthy && st.Firmware.Slot == "A" && !st.Firmware.Trial
	})
	if got := w.slots(); got != "B B B A" {
		t.Errorf("started %s, want B three times, then A", got)
	}
	got, events := entries(t, c)
	if !slices.Equal(got, []string{"started B", "failed B", "failed B", "failed B", "fell-back A"}) {
		t.Fatalf("history %v", got)
	}
	return events
}

// Complaint 1: the health check fails and nothing happens. Complaint 6: nothing says why. Complaint 7:
// the admin's own check counts.
func TestHealthCheckThatFailsGoesBack(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	w.machine.Steps = []fake.Step{{Console: "the last words\r\n"}}
	w.agent.status = trialReply(cardpb.Health_HEALTH_DEGRADED, "check 50-web: exit status 1 | no page on port 80")
	r := startParts(t, w, c, w.flashParts())
	events := fallsBack(t, w, r, c)
	f, back := events[1], events[4]
	if !strings.Contains(events[3].Console, "the last words") {
		t.Errorf("the last failure's console: %q", events[3].Console)
	}
	if f.Check != "check 50-web" || f.Output != "no page on port 80" ||
		f.Version != "7.3-two" || f.Who != "supervisor" || f.Outcome != "2 attempts left" {
		t.Errorf("the failure is %+v", f)
	}
	if !strings.Contains(back.Why, "slot B: no attempts left") || !strings.Contains(back.Why, "check 50-web: exit status 1") {
		t.Errorf("it fell back because %q", back.Why)
	}
	st := r.await("the event", func(status.Status) bool { return true })
	if !slices.ContainsFunc(st.History, func(e status.Event) bool {
		return strings.HasPrefix(e.Text, "firmware: back from slot B to slot A: ")
	}) {
		t.Errorf("no event says why: %v", st.History)
	}
}

// Complaint 8: a reboot loop, and each other way in which a life on trial ends by itself.
func TestLivesThatEndByThemselvesGoBack(t *testing.T) {
	for cause, why := range map[machine.Cause]string{
		machine.Rebooted: "the card rebooted before it was healthy", machine.Panicked: "panicked (Oops)",
		machine.Crashed: "crashed (Oops)", machine.Killed: "killed (Oops)",
	} {
		t.Run(string(cause), func(t *testing.T) {
			w := newScene()
			c, _ := flashCard(t)
			end := fake.Step{After: 50 * time.Millisecond, Exit: machine.Exit{Cause: cause, Detail: "Oops"}}
			w.machine.Steps = []fake.Step{end, end, end, {}}
			w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "on trial")
			r := startParts(t, w, c, w.flashParts())
			for _, e := range fallsBack(t, w, r, c) {
				if e.What == "failed" && !strings.Contains(e.Why, why) {
					t.Errorf("failed because %q, want %q", e.Why, why)
				}
			}
		})
	}
}

// Complaint 8: a reboot loop instead of fallback. A good slot that panics at each start is passed over
// after three of them: also in a first start, and for the rescue system. Kills in between count for
// nothing.
func TestGoodSlotThatPanicsIsPassedOver(t *testing.T) {
	panics := fake.Step{After: time.Millisecond, Exit: machine.Exit{Cause: machine.Panicked, Detail: "Oops"}}
	killed := fake.Step{After: time.Millisecond, Exit: machine.Exit{Cause: machine.Killed}}
	for _, c := range []struct {
		name  string
		other bool // slot A is good, too
		steps []fake.Step
		slots string
	}{
		{"to the other slot", true, []fake.Step{panics, panics, panics, {}}, "B B B A"},
		{"to the rescue system", false, []fake.Step{panics, panics, panics, {}}, "B B B rescue"},
		{"two are not enough", true, []fake.Step{panics, panics, {}}, "B B B"},
		{"kills do not count", true, []fake.Step{killed, killed, panics, killed, panics, killed, {}}, "B B B B B B B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newScene()
			card, digest := flashCard(t)
			romtest.Change(t, card.Paths, flash.Marked(flash.B, digest))
			if !c.other {
				romtest.Change(t, card.Paths, flash.Condemned(flash.A))
			}
			w.machine.Steps = c.steps
			r := startParts(t, w, card, w.flashParts())
			r.await("health", func(st status.Status) bool {
				return (st.State == status.Healthy || st.State == status.Degraded) && len(w.machine.Specs()) == len(c.steps)
			})
			if got := w.slots(); got != c.slots {
				t.Errorf("started %s, want %s", got, c.slots)
			}
			_, events := entries(t, card)
			for _, e := range events {
				if e.What == "failed" && !strings.Contains(e.Why, "3 panics in a row") {
					t.Errorf("failed: %+v", e)
				}
			}
		})
	}
}

// A panic before the agent answers ends no `toe up`: the good slot is started.
func TestPanicAtTheStartGoesBack(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	end := fake.Step{Exit: machine.Exit{Cause: machine.Panicked}, After: time.Millisecond}
	w.machine.Steps = []fake.Step{end, end, end, {}}
	w.hang["agent"] = true
	parts := w.flashParts()
	parts.Limits.Start[machine.Fake] = 5 * time.Second
	r := startParts(t, w, c, parts)
	r.await("the fourth start", func(status.Status) bool { return len(w.machine.Instances()) == 4 })
	w.mu.Lock()
	w.hang["agent"] = false
	w.mu.Unlock()
	fallsBack(t, w, r, c)
}

// A hang: the agent has answered, and then stops answering.
func TestHangGoesBack(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "on trial")
	r := startParts(t, w, c, w.flashParts())
	for n := 1; n <= 3; n++ {
		r.await("a life", func(st status.Status) bool {
			return len(w.machine.Instances()) == n && st.Stage == "" && st.Firmware.Trial
		})
		w.agent.set(trialReply(cardpb.Health_HEALTH_STARTING, "on trial"), true)
		r.await("its end", func(status.Status) bool { return len(w.machine.Instances()) == n+1 })
		w.agent.set(trialReply(cardpb.Health_HEALTH_STARTING, "on trial"), false)
	}
	for _, e := range fallsBack(t, w, r, c) {
		if e.What == "failed" && !strings.Contains(e.Why, "the agent has not answered for ") {
			t.Errorf("failed because %q", e.Why)
		}
	}
}

// Not healthy in time.
func TestTrialThatTakesTooLongGoesBack(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "check network: port wan has no address\n")
	parts := w.flashParts()
	s := New(c, parts, discard())
	s.world.machine = machineWithFaults{w}
	l := &life{limits: &parts.Limits, board: s.board, world: s.world, powered: time.Now().Add(-time.Minute), console: &console{}}
	r, err := rom.Open(c.Paths)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.world.flash.rom = r
	if s.world.flash.start, err = r.Boot(t.Context(), rom.Hardware{Machine: "fake"}); err != nil {
		t.Fatal(err)
	}
	s.board.hear(w.agent.status)
	e := l.judge()
	if e == nil || !strings.HasPrefix(e.Why, "not healthy within 5.3s") || e.Check != "check network" {
		t.Errorf("%+v", e)
	}
	l.powered = time.Now()
	if e := l.judge(); e != nil {
		t.Errorf("judged before its time: %+v", e)
	}
	s.board.change(func() { s.board.replied = time.Time{} }) // by an apply
	if e := l.judge(); e != nil {
		t.Errorf("an apply is no silence: %+v", e)
	}
}

// Complaint 4: a reboot by a person before the health check counts as a failure.
func TestPersonsResetIsNoFailure(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "on trial")
	r := startParts(t, w, c, w.flashParts())
	r.await("the trial", func(st status.Status) bool { return st.Firmware.Trial && st.Stage == "" })
	if env := romtest.Env(t, c.Paths); env.Left(flash.B) != 2 {
		t.Fatalf("%v", env)
	}
	if err := client.New(c).Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("the second trial", func(st status.Status) bool { return st.Firmware.Trial && st.Stage == "" && st.Restarts == 1 })
	if env := romtest.Env(t, c.Paths); env.Left(flash.B) != 2 {
		t.Errorf("after the reset: %v", env)
	}
	r.stop()
	_ = r.wait()
	if env := romtest.Env(t, c.Paths); env.Left(flash.B) != 3 {
		t.Errorf("after down: %v", env)
	}
	if got, _ := entries(t, c); !slices.Equal(got, []string{"started B"}) {
		t.Errorf("history %v", got)
	}
}

// The same for a reboot on the card, which gives the attempt back itself.
func TestOrderlyRebootOnTheCardIsNoFailure(t *testing.T) {
	w := newScene()
	c, digest := flashCard(t)
	w.agent.status = trialReply(cardpb.Health_HEALTH_STARTING, "on trial")
	r := startParts(t, w, c, w.flashParts())
	r.await("the trial", func(st status.Status) bool { return st.Firmware.Trial && st.Stage == "" })
	env := romtest.Env(t, c.Paths)
	romtest.Change(t, c.Paths, env.GiveBack(env, flash.B, digest))
	w.machine.Instances()[0].End(machine.Exit{Cause: machine.Rebooted})
	r.await("the second trial", func(st status.Status) bool { return st.Firmware.Trial && st.Stage == "" && st.Restarts == 1 })
	if env := romtest.Env(t, c.Paths); env.Left(flash.B) != 2 {
		t.Errorf("%v", env)
	}
	if got, _ := entries(t, c); !slices.Equal(got, []string{"started B"}) {
		t.Errorf("history %v", got)
	}
}

// Complaint 3: both slots without attempts: the rescue system comes up, and says why.
func TestAllSlotsBadStartsTheRescueSystem(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	romtest.Change(t, c.Paths, flash.Env{"BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0"})
	var cfg *control.Config
	parts := w.flashParts()
	parts.Initrd = func(_ *store.Card, _ Image, got *control.Config) error { cfg = got; return nil }
	r := startParts(t, w, c, parts)
	st := r.await("the rescue system", func(st status.Status) bool { return st.State == status.Degraded && st.Stage == "" })
	const why = "slot B: no attempts left; slot A: marked bad; no slot can be started"
	if st.Firmware.Edition != "micro" || st.Firmware.Slot != "" || !strings.Contains(strings.Join(st.Reasons, "; "), why) {
		t.Errorf("firmware %+v, reasons %v", st.Firmware, st.Reasons)
	}
	if spec := w.machine.Specs()[0]; spec.Cmdline != "" || cfg.Rescue != why {
		t.Errorf("arguments %q, rescue %q", spec.Cmdline, cfg.Rescue)
	}
	if got, _ := entries(t, c); !slices.Equal(got, []string{"rescue"}) {
		t.Errorf("history %v", got)
	}
}

// The error rows: what fails on the host takes no attempt from the slot, and ends the start.
func TestHostErrorsAreNotTheSlots(t *testing.T) {
	for _, step := range []string{"flash", "disk", "initrd", "start"} {
		t.Run(step, func(t *testing.T) {
			w := newScene()
			w.fault[step] = errFault
			c, _ := flashCard(t)
			r := startParts(t, w, c, w.flashParts())
			var se *StartError
			if err := r.wait(); !errors.As(err, &se) || !errors.Is(err, errFault) && !strings.Contains(err.Error(), errFault.Error()) {
				t.Errorf("ended with %v", err)
			}
			if leaks := w.leaks(); len(leaks) > 0 {
				t.Errorf("left open: %v", leaks)
			}
			if env := romtest.Env(t, c.Paths); env.Left(flash.B) != 3 {
				t.Errorf("an attempt was lost: %v", env)
			}
		})
	}
}

// A flash that is damaged is refused with its name, and the card does not start.
func TestDamagedFlash(t *testing.T) {
	w := newScene()
	c, _ := flashCard(t)
	f, _ := romtest.Flash(t, c.Paths)
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	err := startParts(t, w, c, w.flashParts()).wait()
	if !errors.Is(err, flash.ErrInvalid) || !strings.Contains(err.Error(), c.Paths.Flash()) {
		t.Errorf("ended with %v", err)
	}
	if _, err := rom.Open(store.Paths{State: t.TempDir()}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no flash: %v", err)
	}
}
