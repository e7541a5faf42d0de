package disk_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/disk/disktest"
)

// After a power failure what was flushed is there, and each sector that was not is the old one or
// the new one. All and nothing of it happen.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	before := bytes.Repeat([]byte{'o'}, size)
	if err := os.WriteFile(image, before, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := disktest.Record(image, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := newWorldOn(t, image, options{wrap: r.Wrap})
	flushed := bytes.Repeat([]byte{'f'}, 8192)
	w.must(t, ok, out, 0, flushed, false)
	w.must(t, ok, discard, 0, span(16, 16, 0), false)
	w.must(t, ok, flush, 0, nil, false)
	if n := r.Unflushed(); n != 0 {
		t.Errorf("%d writes are not flushed after a flush", n)
	}
	const from, to = 64, 192 // sectors
	for sector := uint64(from); sector < to; sector += 8 {
		w.must(t, ok, out, sector, bytes.Repeat([]byte{'n'}, 4096), false)
	}
	if n := r.Unflushed(); n != (to-from)/8 {
		t.Errorf("%d writes are not flushed, want %d", n, (to-from)/8)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	all, none, torn := 0, 0, 0
	for range 60 {
		path := filepath.Join(dir, "after")
		loss, err := r.Cut(path, rng)
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(after[:8192], flushed) || !bytes.Equal(after[8192:16384], make([]byte, 8192)) {
			t.Fatal("what was flushed is lost")
		}
		fresh := 0
		for sector := 32; sector < size/disk.SectorSize; sector++ {
			b := after[sector*512 : sector*512+512]
			n := bytes.Count(b, []byte{'n'})
			if n == 512 && sector >= from && sector < to {
				fresh++
			} else if n != 0 || bytes.Count(b, []byte{'o'}) != 512 {
				t.Fatalf("sector %d is neither old nor new: %.20q", sector, b)
			}
		}
		switch {
		case fresh == 0:
			none++
		case fresh == to-from:
			all++
		}
		if loss.Torn > 0 {
			torn++
		}
	}
	if all == 0 || none == 0 || torn == 0 || all+none == 60 {
		t.Errorf("of 60 cuts %d kept all, %d kept nothing, %d tore a write", all, none, torn)
	}
}
