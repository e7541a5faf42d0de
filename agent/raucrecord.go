package agent

import (
	"slices"
	"strings"

	"github.com/toe-project/toe/flash"
)

// raucKept are the keys of a slot's section in RAUC's record that are as true of a copy of the slot. Those
// about its bytes are not.
var raucKept = []string{"bundle.compatible", "bundle.version", "bundle.description", "bundle.build", "status"}

// copyRecord returns RAUC's record of its slots (an INI file) with that of slot to replaced by that of slot
// from, or removed where from is empty.
func copyRecord(text string, from, to flash.Slot) string {
	var out, kept strings.Builder
	in := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(strings.TrimSpace(line), "[]")
			if from != "" && isSlotOf(in, from) {
				kept.WriteString("[" + in[:len(in)-1] + raucIndex(to) + "]\n")
			}
		} else if key, _, ok := strings.Cut(line, "="); ok && from != "" && isSlotOf(in, from) && slices.Contains(raucKept, key) {
			kept.WriteString(line)
		}
		if !isSlotOf(in, to) {
			out.WriteString(line)
		}
	}
	return out.String() + kept.String()
}

// raucIndex is the number of a slot in RAUC's configuration.
func raucIndex(s flash.Slot) string {
	if s == flash.A {
		return "0"
	}
	return "1"
}

func isSlotOf(section string, s flash.Slot) bool {
	return strings.HasPrefix(section, "slot.") && strings.HasSuffix(section, "."+raucIndex(s))
}
