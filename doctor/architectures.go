package doctor

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/arch"
)

// checkArchitectures looks for the QEMU of each other architecture. One that a card of this host
// needs must be there.
func checkArchitectures(_ context.Context, h Host) Result {
	var have, fixes []string
	missing := map[string][]string{} // package → architectures
	for _, a := range arch.All {
		if a.IsHost() {
			continue
		}
		if _, err := exec.LookPath(a.QEMU); err == nil {
			have = append(have, a.Name)
		} else {
			missing[a.Package] = append(missing[a.Package], a.Name)
		}
	}
	r := Result{State: Pass, Detail: "cards may be " + strings.Join(have, ", ")}
	if len(have) == 0 {
		r = Result{State: Skip, Detail: "cards of other architectures need a QEMU that is not installed"}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		r.Detail += fmt.Sprintf("; %s for %s", name, strings.Join(missing[name], ", "))
	}
	for card, a := range cardArchitectures(h) {
		if slices.Contains(missing[a.Package], a.Name) {
			r.State, r.Detail = Fail, fmt.Sprintf("card %s is %s, and %s is not installed", card, a.Name, a.QEMU)
			fixes = append(fixes, a.Package)
		}
	}
	if len(fixes) > 0 {
		slices.Sort(fixes)
		r.Fix = "sudo apt install " + strings.Join(slices.Compact(fixes), " ")
	}
	return r
}

// cardArchitectures returns the architecture of each card that can be read.
func cardArchitectures(h Host) map[string]arch.Arch {
	found := map[string]arch.Arch{}
	names, _ := h.Dirs.List() // an unreadable folder fails the check of leftovers
	for _, name := range names {
		if c, err := h.Dirs.Open(name); err == nil {
			found[name] = c.Spec.Row()
		}
	}
	return found
}
