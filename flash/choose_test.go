package flash

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"strings"
	"testing"
)

// seal gives a copy the right CRC.
func seal(b []byte) { binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[envHeader:])) }

var errTorn = errors.New("a bit is wrong")

// both is a flash with a different, valid image in each slot.
func both() map[Slot]Held { return map[Slot]Held{A: {Digest: "aa"}, B: {Digest: "bb"}} }

func TestChoose(t *testing.T) {
	good := func(order string, left ...string) Env {
		e := Env{"BOOT_ORDER": order, "BOOT_A_GOOD": "aa", "BOOT_B_GOOD": "bb", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"}
		for i, l := range left {
			e[leftVar(Slots[i])] = l
		}
		return e
	}
	trialB := func(left string) Env { return good("B A", "3", left).With(Env{"BOOT_B_GOOD": ""}) }
	for _, c := range []struct {
		name  string
		env   Env
		held  map[Slot]Held
		slot  Slot
		trial bool
		left  string // of the chosen slot afterwards
		why   string
	}{
		{"fresh flash", nil, both(), A, true, "2", "slot A: on trial, 2 attempts left"},
		{"empty order", good(""), both(), A, false, "3", "good"},
		{"order of unknown words", good("C D"), both(), A, false, "3", "good"},
		{"order B A", good("B A"), both(), B, false, "3", "good"},
		{"order with repetitions", good(" B  B A "), both(), B, false, "3", "good"},
		{"new slot on trial", trialB("3"), both(), B, true, "2", "on trial"},
		{"last attempt", trialB("1"), both(), B, true, "0", "on trial, 0 attempts left"},
		{"hexadecimal attempts", trialB("a"), both(), B, true, "9", "on trial"},
		{"attempts with 0x", trialB("0x10"), both(), B, true, "f", "on trial"},
		{"attempts used up", trialB("0"), both(), A, false, "3", "slot B: no attempts left; slot A: good"},
		{"attempts no number", trialB("many"), both(), A, false, "3", "slot B: no attempts left"},
		{"attempts negative", trialB("-1"), both(), A, false, "3", "slot B: no attempts left"},
		{"attempts absurd", trialB("ffffffffffffffffffff"), both(), A, false, "3", "slot B: no attempts left"},
		{"torn boot partition", good("B A"), map[Slot]Held{A: {Digest: "aa"}, B: {Err: errTorn}}, A, false, "3", "slot B: a bit is wrong"},
		{"empty boot partition", good("B A"), map[Slot]Held{A: {Digest: "aa"}}, A, false, "3", "slot B: empty"},
		{"slot written again is on trial", good("B A"), map[Slot]Held{A: {Digest: "aa"}, B: {Digest: "b2"}}, B, true, "2", "on trial"},
		{"not in the order, but good", good("B", "3", "0"), both(), A, false, "3", "slot B: marked bad; slot A: good"},
		{"not in the order, and not good", Env{"BOOT_ORDER": "B", "BOOT_B_LEFT": "0"}, both(), "", false, "", "no slot can be started"},
		// RAUC: an install that fails while its target is the first of the order.
		{"RAUC primary=B, B bad", good("B A", "3", "0").With(Env{"BOOT_B_GOOD": ""}), both(), A, false, "3", "slot B: no attempts left"},
		{"RAUC bad and taken out of the order", good("A", "3", "0"), both(), A, false, "3", "good"},
		// Complaint 3: both slots without attempts.
		{"both used up", good("A B", "0", "0"), both(), "", false, "", "slot A: marked bad; slot B: marked bad; no slot"},
		{"nothing valid", nil, map[Slot]Held{A: {Err: errTorn}}, "", false, "", "slot A: a bit is wrong; slot B: empty; no slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := maps.Clone(c.env)
			got := Choose(c.env, c.held)
			if got.Slot != c.slot || got.Trial != c.trial || !strings.Contains(got.Why, c.why) {
				t.Errorf("chose %q, trial %v, because %q; want %q, %v, %q", got.Slot, got.Trial, got.Why, c.slot, c.trial, c.why)
			}
			if left := got.Env[leftVar(got.Slot)]; got.Slot != "" && left != c.left {
				t.Errorf("attempts left %q, want %q", left, c.left)
			}
			if !maps.Equal(before, c.env) {
				t.Error("Choose changed its argument")
			}
		})
	}
}

// Complaint 2: a few quick power cycles use up the attempts of a slot that was good for months.
func TestPowerCyclesOfAGoodSlot(t *testing.T) {
	env := Env{}.With(Marked(A, "aa"))
	for range 50 {
		c := Choose(env, both())
		if c.Slot != A || c.Trial || c.Env.Left(A) != Attempts {
			t.Fatalf("chose %q, %d attempts left: %s", c.Slot, c.Env.Left(A), c.Why)
		}
		env = c.Env
	}
}

// Complaint 8: a reboot loop instead of the fallback. A slot on trial that never becomes healthy is
// given up after its attempts.
func TestRebootLoopEnds(t *testing.T) {
	env := Env{}.With(Marked(A, "aa"))
	env = env.With(env.Preferred(B))
	for n := range Attempts {
		c := Choose(env, both())
		if c.Slot != B || !c.Trial {
			t.Fatalf("start %d: slot %q, trial %v", n+1, c.Slot, c.Trial)
		}
		env = c.Env
	}
	if c := Choose(env, both()); c.Slot != A || c.Trial || !strings.Contains(c.Why, "slot B: no attempts left") {
		t.Errorf("afterwards slot %q: %s", c.Slot, c.Why)
	}
}

// Complaint 4: a reboot by a person before the health check counts as a failure.
func TestPersonsRebootIsNoFailure(t *testing.T) {
	env := Env{}.With(Marked(A, "aa"))
	env = env.With(env.Preferred(B))
	for n := range maxSpared {
		c := Choose(env, both())
		if c.Slot != B || c.Env.Left(B) != Attempts-1 {
			t.Fatalf("start %d: slot %q, %d attempts left", n+1, c.Slot, c.Env.Left(B))
		}
		env = c.Env.With(c.Env.GiveBack(c.Env, B, "bb"))
		if env.Left(B) != Attempts {
			t.Fatalf("after reboot %d: %d attempts left, want all", n+1, env.Left(B))
		}
		if again := env.GiveBack(c.Env, B, "bb"); again != nil {
			t.Fatalf("the attempt is given back twice: %v", again)
		}
	}
	// A system that reboots in good order before each check is no person: that ends.
	c := Choose(env, both())
	if back := c.Env.GiveBack(c.Env, B, "bb"); back != nil {
		t.Errorf("an attempt is given back more than %d times: %v", maxSpared, back)
	}
	// Another content starts anew.
	if back := c.Env.GiveBack(c.Env, B, "b2"); back == nil {
		t.Error("what another content used up counts against this one")
	}
}

// The last attempt is given back, too, but not one that a verdict has ended.
func TestGiveBack(t *testing.T) {
	started := Env{"BOOT_ORDER": "B A", "BOOT_B_LEFT": "0"}
	for _, c := range []struct {
		name string
		now  Env
		left int
	}{
		{"last attempt", started, 1},
		{"marked good", started.With(Marked(B, "bb")), Attempts},
		{"marked good by RAUC alone", started.With(Env{"BOOT_B_LEFT": "3"}), 3},
		{"marked bad by RAUC", started.With(Env{"BOOT_ORDER": "A"}), 0},
		{"installed again", started.With(started.Preferred(A)), 0},
		{"count unreadable", started.With(Env{"BOOT_B_SPARED": "x bb"}), 0},
	} {
		if got := c.now.With(c.now.GiveBack(started, B, "bb")).Left(B); got != c.left {
			t.Errorf("%s: %d attempts left, want %d", c.name, got, c.left)
		}
	}
}

// Complaint 5: it falls back to the release before the last good one. The third release fails in
// the slot of the first: the second is what was good last.
func TestFallsBackToTheLastGood(t *testing.T) {
	held := map[Slot]Held{A: {Digest: "1"}, B: {Digest: "2"}}
	env := Env{}.With(Marked(A, "1"))
	env = env.With(env.Preferred(B))
	env = Choose(env, held).Env
	env = env.With(Marked(B, "2"))
	for _, release := range []string{"3", "4"} { // two failing updates in a row
		held[A] = Held{Digest: release}
		env = env.With(env.Preferred(A))
		for range Attempts {
			c := Choose(env, held)
			if c.Slot != A || !c.Trial {
				t.Fatalf("release %s: slot %q, trial %v: %s", release, c.Slot, c.Trial, c.Why)
			}
			env = c.Env
		}
		c := Choose(env, held)
		if c.Slot != B || c.Trial {
			t.Fatalf("after release %s: slot %q, trial %v: %s", release, c.Slot, c.Trial, c.Why)
		}
		env = c.Env
	}
}

// Complaint 10: an install that is broken off, or finds no room, must leave one slot that starts.
// These are the states that RAUC's steps leave: target bad, written, then made primary.
func TestInstallBrokenOffAtEveryStep(t *testing.T) {
	start := Env{}.With(Marked(A, "1"))
	start = start.With(start.Preferred(A)).With(Marked(B, "0"))
	old, half, done := Held{Digest: "0"}, Held{Err: errTorn}, Held{Digest: "2"}
	bad := start.With(Env{"BOOT_B_LEFT": "0", "BOOT_ORDER": "A"})
	for _, c := range []struct {
		name string
		env  Env
		b    Held
		slot Slot
	}{
		{"before", start, old, A},
		{"marked bad", bad, old, A},
		{"boot partition half written", bad, half, A},
		{"boot partition written, root not", bad, done, A},
		{"all written, not made primary", bad, done, A},
		{"made primary", bad.With(bad.Preferred(B)), done, B},
		{"made primary and then bad", bad.With(bad.Preferred(B)).With(Env{"BOOT_B_LEFT": "0"}), done, A},
	} {
		got := Choose(c.env, map[Slot]Held{A: {Digest: "1"}, B: c.b})
		if got.Slot != c.slot {
			t.Errorf("%s: slot %q, want %q: %s", c.name, got.Slot, c.slot, got.Why)
		}
	}
}
