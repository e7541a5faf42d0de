package flash

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Variables of the boot environment. BOOT_ORDER and BOOT_x_LEFT are those of RAUC's back end "uboot"
// and of the boot script in its manual. The others are ours, and what does not know them keeps them.
const orderVar = "BOOT_ORDER" // slots, the preferred one first: "A B"

// lastVar is the slot that was started last.
const lastVar = "BOOT_LAST"

// ZeroTrustVar marks the flash of a card that its host may not change (agent/zerotrust.go).
const ZeroTrustVar = "ZERO_TRUST"

// ZeroTrust reports whether only the card may change its flash. A host obeys; it cannot be made to.
func (e Env) ZeroTrust() bool { return e[ZeroTrustVar] != "" }

func leftVar(s Slot) string { return "BOOT_" + string(s) + "_LEFT" } // attempts, hexadecimal

// goodVar has the digest of the boot slot that was found healthy. It is void once the slot has
// another content.
func goodVar(s Slot) string { return "BOOT_" + string(s) + "_GOOD" }

// sparedVar has the number of attempts that were given back, and the digest of the content that it
// is about: "2 DIGEST".
func sparedVar(s Slot) string { return "BOOT_" + string(s) + "_SPARED" }

// Attempts is how often a slot on trial is started before the other one is. RAUC's default.
const Attempts = 3

// maxSpared is how many attempts of a slot on trial orderly reboots give back. A system that reboots
// itself in good order before every health check would otherwise do so without end.
const maxSpared = 3

// Held is what the boot partition of a slot holds, as the boot ROM found it.
type Held struct {
	Digest  string // of the image file's manifest
	Version string
	Err     error // why it cannot be booted
}

// State is what is known of a slot.
type State string

// States of a slot.
const (
	Good   State = "good"   // found healthy with the content that it has
	Trial  State = "trial"  // not found healthy yet, and has attempts left
	Bad    State = "bad"    // no attempts left, or marked bad
	Broken State = "broken" // its boot partition holds nothing that boots
)

// Choice is the result of Choose.
type Choice struct {
	Slot  Slot // empty: no slot can be started, and the rescue system is
	Trial bool // the slot has not been found healthy yet
	Env   Env  // to be written before the slot is started
	// Why says in words why this slot was chosen and no preferred one.
	Why string
}

// Choose decides which slot is started. It is all of the boot ROM's judgement, and has no effect.
//
//   - The slots are tried in the order of BOOT_ORDER. A slot that is not in it is used only if it is
//     good: better than the rescue system.
//   - A slot without attempts left, or with a boot partition that does not hold a valid image, is
//     passed over. RAUC leaves a slot that was not installed completely without attempts, and
//     possibly still the first of the order.
//   - A good slot keeps its attempts, however often the power fails.
//   - A slot on trial loses one. An orderly end gives it back (GiveBack).
//   - A slot is good as long as its boot partition has the content that was found healthy.
func Choose(env Env, held map[Slot]Held) Choice {
	c := Choice{Env: maps.Clone(env)}
	if c.Env == nil {
		c.Env = Env{}
	}
	var passed []string
	for _, s := range env.candidates(held) {
		state, why := env.State(s, held[s])
		if state == Bad || state == Broken {
			passed = append(passed, fmt.Sprintf("slot %s: %s", s, why))
			continue
		}
		c.Slot, c.Trial = s, state == Trial
		c.Env[lastVar] = string(s)
		if c.Trial {
			c.Env.setLeft(s, env.Left(s)-1)
		}
		c.Why = strings.Join(append(passed, fmt.Sprintf("slot %s: %s", s, c.reason(s))), "; ")
		return c
	}
	delete(c.Env, lastVar)
	c.Why = strings.Join(append(passed, "no slot can be started"), "; ")
	return c
}

func (c *Choice) reason(s Slot) string {
	if !c.Trial {
		return "good"
	}
	return fmt.Sprintf("on trial, %d attempts left after this one", c.Env.Left(s))
}

// candidates lists the slots in the order in which they are tried.
func (e Env) candidates(held map[Slot]Held) []Slot {
	order := e.Order()
	for _, s := range Slots {
		if slices.Contains(order, s) {
			continue
		}
		if state, _ := e.State(s, held[s]); state != Trial {
			order = append(order, s)
		}
	}
	return order
}

// Order returns BOOT_ORDER without repetitions and unknown words. Without the variable it is A, B.
func (e Env) Order() []Slot {
	text, ok := e[orderVar]
	if !ok {
		return slices.Clone(Slots)
	}
	var order []Slot
	for _, word := range strings.Fields(text) {
		if s := Slot(word); slices.Contains(Slots, s) && !slices.Contains(order, s) {
			order = append(order, s)
		}
	}
	return order
}

// Last returns the slot that was started last; empty where there is none, or it was the rescue system.
func (e Env) Last() Slot {
	if s := Slot(e[lastVar]); slices.Contains(Slots, s) {
		return s
	}
	return ""
}

// Left returns the attempts that a slot has left. As in RAUC and its boot script they are
// hexadecimal, and a slot without the variable has all of them. What is no number is 0.
func (e Env) Left(s Slot) int {
	text, ok := e[leftVar(s)]
	if !ok {
		return Attempts
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

func (e Env) setLeft(s Slot, n int) { e[leftVar(s)] = strconv.FormatInt(int64(max(n, 0)), 16) }

// State returns the state of a slot, and the reason in words where it cannot be started.
func (e Env) State(s Slot, h Held) (State, string) {
	switch {
	case h.Err != nil:
		return Broken, h.Err.Error()
	case h.Digest == "":
		return Broken, "empty"
	case e.Left(s) == 0 && e[goodVar(s)] == h.Digest:
		return Bad, "marked bad"
	case e.Left(s) == 0:
		return Bad, "no attempts left"
	case e[goodVar(s)] == h.Digest:
		return Good, ""
	}
	return Trial, ""
}

// Marked returns the changes by which a slot that runs content digest becomes good: all attempts,
// and none used up by this content.
func Marked(s Slot, digest string) Env {
	return Env{leftVar(s): strconv.Itoa(Attempts), goodVar(s): digest, sparedVar(s): ""}
}

// Condemned returns the changes by which s is bad, whatever it was. Preferred brings it back.
func Condemned(s Slot) Env { return Env{leftVar(s): "0"} }

// GiveBack returns the changes by which slot s, which runs content digest on trial, gets the attempt
// back that its start took, because its end was requested. started is the environment at the start, e
// the current one. There are no changes if the slot has a verdict, has the attempt back already, or
// got maxSpared back.
func (e Env) GiveBack(started Env, s Slot, digest string) Env {
	if e[goodVar(s)] == digest || e[leftVar(s)] != started[leftVar(s)] || e[orderVar] != started[orderVar] {
		return nil
	}
	spared := e.spared(s, digest)
	if spared >= maxSpared {
		return nil
	}
	out := Env{sparedVar(s): fmt.Sprintf("%d %s", spared+1, digest)}
	out.setLeft(s, e.Left(s)+1)
	return out
}

// spared returns how many attempts content digest of a slot got back.
func (e Env) spared(s Slot, digest string) int {
	count, of, _ := strings.Cut(e[sparedVar(s)], " ")
	if of != digest {
		return 0
	}
	n, err := strconv.ParseUint(count, 10, 16)
	if err != nil {
		return maxSpared
	}
	return int(n)
}

// Preferred returns the changes by which s becomes the first of the order, with all attempts. Its
// mark stays: a slot that was good is good still.
func (e Env) Preferred(s Slot) Env {
	return Env{orderVar: string(s) + " " + string(s.Other()), leftVar(s): strconv.Itoa(Attempts), sparedVar(s): ""}
}

// Unusable returns the changes by which s cannot be started until it is preferred again: its content is
// about to be replaced. It leaves the order, as RAUC does it.
func (e Env) Unusable(s Slot) Env {
	return Env{orderVar: string(s.Other()), leftVar(s): "0", goodVar(s): "", sparedVar(s): ""}
}

// With returns a copy of e with changes. An empty value removes a variable.
func (e Env) With(changes Env) Env {
	out := Env{}
	maps.Copy(out, e)
	for name, value := range changes {
		if value == "" {
			delete(out, name)
		} else {
			out[name] = value
		}
	}
	return out
}
