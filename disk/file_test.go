package disk

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Sync reaches the kernel: a descriptor that cannot be synced says so.
func TestSyncIsMade(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := fd(w.Fd()).Sync(); err != unix.EINVAL {
		t.Errorf("fdatasync of a pipe: %v, want EINVAL", err)
	}
}
