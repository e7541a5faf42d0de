package rom

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/firmware/firmwaretest"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// updating is a flash in the middle of an update from slot A to slot B.
type updating struct {
	t     *testing.T
	r     *ROM
	p     store.Paths
	next  *firmware.Image
	start Start // of the last boot
}

// updateState is a state of an update by what it does to the flash. docs/reliability.md has the table.
type updateState struct {
	name string
	// done takes the state to its end; half is what is left of it where the power fails in the middle.
	done, half func(*updating)
	// failed is what an error leaves.
	failed func(*updating)
	// slots that the card starts after a kill in the middle and after an error, in each start in a row.
	killed, fails string
}

func nothing(*updating) {}

// set changes variables of the boot environment, as RAUC's and the agent's writes do.
func set(changes flash.Env) func(*updating) {
	return func(u *updating) {
		if err := u.r.change(changes); err != nil {
			u.t.Fatal(err)
		}
	}
}

// torn leaves n bytes of a write of the environment.
func torn(changes flash.Env, n int) func(*updating) {
	return func(u *updating) {
		env, err := u.r.Env()
		if err != nil {
			u.t.Fatal(err)
		}
		if err := flash.WriteEnv(tornStorage{u.r.env(), n}, env.With(changes)); !errors.Is(err, errPower) {
			u.t.Fatalf("a write that the power failed in: %v", err)
		}
	}
}

var errPower = errors.New("the power fails")

type tornStorage struct {
	storage
	n int
}

func (s tornStorage) WriteAt(b []byte, off int64) (int, error) {
	n, err := s.storage.WriteAt(b[:s.n], off)
	return n, errors.Join(err, errPower)
}

// writeTo writes the first bytes of the release to slot B; 0 is all.
func writeTo(limit int64) func(*updating) {
	return func(u *updating) {
		p := u.r.table.Find(flash.B.Boot())
		if limit > 0 {
			p.Size = limit
		}
		if _, err := writeBoot(u.r.file, p, u.next); (err != nil) != (limit > 0) {
			u.t.Fatalf("writing %d bytes: %v", limit, err)
		}
	}
}

func starts(u *updating) { u.start = boot(u.t, u.r) }

// mark is a verdict of the card that runs.
func mark(u *updating) { set(flash.Marked(u.start.Slot, u.start.Image.Digest()))(u) }

// gives back the attempt of a start that the host ended.
func givesBack(u *updating) {
	if back, err := u.r.GiveBack(u.start); !back || err != nil {
		u.t.Fatalf("given back %v, %v", back, err)
	}
}

var markBad, prefer = flash.Env{"BOOT_B_LEFT": "0"}, flash.Env{}.Preferred(flash.B)

var updateStates = []updateState{
	{"verify", nothing, nothing, nothing, "AA", "AA"},
	{"mark the slot bad", set(markBad), torn(markBad, 30), nothing, "AA", "AA"},
	{"write the kernel", writeTo(0), writeTo(1000), writeTo(1500), "AA", "AA"},
	// The root has no digest that the boot ROM reads: RAUC has written and synced it before the switch.
	{"write the root", nothing, nothing, nothing, "AA", "AA"},
	{"switch", set(prefer), torn(prefer, 30), nothing, "AA", "AA"},
	{"restart", nothing, nothing, nothing, "BBBA", "BBBA"},
	{"trial", starts, starts, func(u *updating) { starts(u); givesBack(u) }, "BBA", "BBBA"},
	{"health checks", nothing, nothing, func(u *updating) { starts(u); starts(u) }, "BBA", "AA"},
	{"mark the slot good", mark, func(u *updating) {
		torn(flash.Marked(flash.B, u.next.Digest()), 3)(u)
	}, nothing, "BBA", "BBA"},
	{"good", nothing, nothing, nothing, "BBBBB", "BBBBB"},
}

// TestUpdateStates kills and fails an update in each of its states. The card starts the old release
// or the new one, for a few starts in a row without a verdict, its history can be read, and the same
// update finishes.
func TestUpdateStates(t *testing.T) {
	for i, s := range updateStates {
		for how, row := range map[string]struct {
			leave func(*updating)
			slots string
		}{"killed": {s.half, s.killed}, "error": {s.failed, s.fails}} {
			t.Run(s.name+"/"+how, func(t *testing.T) {
				r, p := newROM(t)
				u := &updating{t: t, r: r, p: p, next: firmwaretest.Debian(t, p.Cache, "two", machine.Fake)}
				boot(t, r)
				for _, before := range updateStates[:i] {
					before.done(u)
				}
				row.leave(u)
				for n, want := range row.slots {
					u.start = boot(t, r)
					if string(u.start.Slot) != string(want) {
						t.Fatalf("start %d is of slot %q, want %q: %s", n+1, u.start.Slot, string(want), u.start.Why)
					}
				}
				if u.start.Slot == flash.A && i > 5 && !strings.Contains(u.start.Why, "slot B: no attempts left") {
					t.Errorf("why: %s", u.start.Why)
				}
				u.recordTorn()
				u.again()
			})
		}
	}
}

// recordTorn has the power fail in the history, too.
func (u *updating) recordTorn() {
	f, err := os.OpenFile(u.p.FirmwareHistory(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		u.t.Fatal(err)
	}
	_, err = io.WriteString(f, `{"time":"2026-11-28T`)
	if err := errors.Join(err, f.Close()); err != nil {
		u.t.Fatal(err)
	}
	if err := Record(u.p, status.FirmwareEvent{What: "started", Slot: string(u.start.Slot)}); err != nil {
		u.t.Fatal(err)
	}
	if events, torn, err := History(u.p); err != nil || torn != 1 || len(events) != 1 {
		u.t.Errorf("history: %d entries, %d torn, %v", len(events), torn, err)
	}
}

// again is the same update from its beginning, to the other slot than the one that runs.
func (u *updating) again() {
	to := u.start.Slot.Other()
	install(u.t, u.r, to, "two")
	u.start = boot(u.t, u.r)
	if u.start.Slot != to || u.start.Image.Version != "7.3-two" {
		u.t.Fatalf("the same update again: %q, %s", u.start.Slot, u.start.Why)
	}
	mark(u)
	for range 5 {
		if s := boot(u.t, u.r); s.Slot != to || s.Trial {
			u.t.Fatalf("after the update: %+v", s)
		}
	}
}
