package e2e

import (
	"bytes"
	"testing"

	"github.com/toe-project/toe/internal/umlmem"
)

// TestLastPage checks the end of a card's memory, which no allocation may use on User-Mode Linux: a
// checksum there would crash the card (machine/uml, holdLastPage). The end of the initramfs holds
// it. It fails with a kernel that puts the initramfs elsewhere or frees the whole of it.
func TestLastPage(t *testing.T) {
	h := newHost(t)
	k := kinds[0]
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
	page, err := umlmem.LastPage(h.status(t, "card0").Machine.PID)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("TRAILER!!!")) { // of a cpio archive
		t.Errorf("the last page of the card's memory is not the end of its initramfs, but % x …", page[:16])
	}
}
