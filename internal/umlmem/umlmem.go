// Package umlmem looks into the memory of a User-Mode Linux card, for tests.
package umlmem

import (
	"fmt"
	"os"
	"strings"
)

// LastPage reads the end of the memory of a card's kernel, 4096 bytes. It is
// mapped, in pieces that adjoin, from an unlinked file. Errors
// are those of /proc/PID/maps and mem.
func LastPage(pid int) ([]byte, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	end := uint64(0)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: %q: %w", pid, line, err)
		}
		if strings.Contains(line, " (deleted)") && (end == 0 || from == end) {
			end = to
		}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	_, err = f.ReadAt(page, int64(end)-int64(len(page)))
	return page, err
}
