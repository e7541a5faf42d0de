package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What was degraded under a good slot does not fail the trial of the next one: a port without a cable
// must not keep a card from its security updates. A good slot keeps the names of its degraded components
// on the data partition.

// degradedFile, in the data's folder, has a component a line.
const degradedFile = dataDir + "/degraded"

// rememberEvery is the time between two looks at what is degraded.
const rememberEvery = 30 * time.Second

// remember keeps what is degraded, until ctx ends. Nothing is kept once the system stops its services.
func (s *slotPart) remember(ctx context.Context) {
	for last := "?"; sleep(ctx, s.rememberPace); {
		now := strings.Join(s.degradedNow(), "\n") + "\n"
		if now == last || s.isEnding() {
			continue
		}
		if err := writeSynced(s.before, now); err != nil {
			s.log.Printf("slot %s: %v", s.slot, err)
			continue
		}
		last = now
	}
}

// degradedNow lists the degraded components of the other parts.
func (s *slotPart) degradedNow() (names []string) {
	for _, p := range s.parts {
		if p == part(s) {
			continue
		}
		for _, r := range p.health() {
			if r.state == degraded {
				names = append(names, r.component)
			}
		}
	}
	slices.Sort(names)
	return names
}

// degradedBefore reads what a good slot has kept.
func (s *slotPart) degradedBefore() []string {
	text, err := os.ReadFile(filepath.Clean(s.before))
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}
