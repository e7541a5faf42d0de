package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLastPage looks at the end of a card's memory, which must belong to
// nobody on User-Mode Linux: a checksum there would end the card (machine/uml,
// holdLastPage). The end of the initramfs holds it. It fails with a kernel that
// puts the initramfs elsewhere or frees the whole of it.
func TestLastPage(t *testing.T) {
	h := newHost(t)
	k := kinds[0]
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
	page, err := lastPage(h.status(t, "card0").Machine.PID)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("TRAILER!!!")) { // of a cpio archive
		t.Errorf("the last page of the card's memory is not the end of its initramfs, but % x …", page[:16])
	}
}

// lastPage reads the end of the memory of a User-Mode Linux kernel, which is
// mapped, in pieces that adjoin, from a file without a name.
func lastPage(pid int) ([]byte, error) {
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
