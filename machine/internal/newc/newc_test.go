package newc

import (
	"bytes"
	"io"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// TestArchive reads the archive back with somebody else's code.
func TestArchive(t *testing.T) {
	var a Archive
	a.File("dir", 0o040755, nil)
	a.Device("dir/console", 5, 1)
	a.File("init", 0o100755, []byte("12345"))
	r := cpio.NewReader(bytes.NewReader(a.Bytes()))
	for _, want := range []struct {
		name string
		size int64
	}{{"dir", 0}, {"dir/console", 0}, {"init", 5}} {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != want.name || h.Size != want.size {
			t.Errorf("entry %s of %d bytes, want %s of %d", h.Name, h.Size, want.name, want.size)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last entry: %v, want EOF", err)
	}
}
