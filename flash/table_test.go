package flash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var small = Sizes{Boot: 2 << 20, Root: 4 << 20, Data: 3 << 20}

// newFlash makes an empty flash in a file.
func newFlash(t testing.TB, s Sizes) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "flash"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := Create(f, s); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCreateAndRead(t *testing.T) {
	f := newFlash(t, small)
	got, err := Read(f, small.Total())
	if err != nil {
		t.Fatal(err)
	}
	at := int64(align)
	for i, r := range small.rows() {
		if want := (Partition{r.name, at, r.size}); got[i] != want {
			t.Errorf("partition %d is %v, want %v", i+1, got[i], want)
		}
		at += r.size
	}
	if _, err := Read(f, small.Total()-sector); err != nil {
		t.Errorf("a file that lost its last sector: %v, want the first table to do", err)
	}
}

// A flash of full size takes no space before something is written.
func TestSparse(t *testing.T) {
	s, err := SizesOf(4 << 30)
	if err != nil || s.Total() != 4<<30 {
		t.Fatalf("%+v has %d bytes, %v", s, s.Total(), err)
	}
	fi, err := newFlash(t, s).Stat()
	if err != nil {
		t.Fatal(err)
	}
	if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; fi.Size() != 4<<30 || used > 1<<20 {
		t.Errorf("%d bytes, of which %d are on the disk", fi.Size(), used)
	}
	for _, total := range []int64{0, MinSize - 1, MaxSize + 1, -1} {
		if _, err := SizesOf(total); err == nil {
			t.Errorf("a flash of %d bytes is accepted", total)
		}
	}
}

// The partition table is one that other programs read, and find nothing wrong with.
func TestOtherProgramsReadTheTable(t *testing.T) {
	f := newFlash(t, small)
	out := run(t, "sgdisk", "--verify", "--print", f.Name())
	if !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	for _, r := range small.rows() {
		if !strings.Contains(out, " "+r.name+"\n") {
			t.Errorf("sgdisk does not show %s: %s", r.name, out)
		}
	}
}

// run runs a program that the test needs, or skips it where there is none.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s here", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

func TestDamagedFirstTable(t *testing.T) {
	for name, at := range map[string]int64{"header": sector + 40, "array": 2*sector + 10} {
		f := newFlash(t, small)
		if _, err := f.WriteAt([]byte{0xa5}, at); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(f, small.Total()); err != nil || got.Find(DataName).Size != small.Data {
			t.Errorf("%s: %v, %v; want what the second table says", name, got, err)
		}
		if _, err := f.WriteAt(make([]byte, tailSize), small.Total()-tailSize); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(f, small.Total()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, and no second table: %v, want ErrInvalid", name, err)
		}
	}
}

// edit changes the first table of a flash, as a card can, with right checksums, and voids the second.
func edit(t testing.TB, f *os.File, change func(header, array []byte)) {
	t.Helper()
	b := make([]byte, headSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	h, a := b[sector:2*sector], b[2*sector:]
	change(h, a)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(a))
	binary.LittleEndian.PutUint32(h[16:], 0)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, tailSize), small.Total()-tailSize); err != nil {
		t.Fatal(err)
	}
}

// A card cannot make the host read outside the flash, take one partition for another, or
// allocate what a header says.
func TestHostileTable(t *testing.T) {
	entry := func(a []byte, n int) []byte { return a[(n-1)*entrySize : n*entrySize] }
	for name, change := range map[string]func(h, a []byte){
		"a million entries":         func(h, _ []byte) { binary.LittleEndian.PutUint32(h[80:], 1<<20) },
		"entries of a GiB":          func(h, _ []byte) { binary.LittleEndian.PutUint32(h[84:], 1<<30) },
		"no entries":                func(h, _ []byte) { binary.LittleEndian.PutUint32(h[80:], 0) },
		"array elsewhere":           func(h, _ []byte) { binary.LittleEndian.PutUint64(h[72:], 1<<62) },
		"end beyond the file":       func(_, a []byte) { binary.LittleEndian.PutUint64(entry(a, 6)[40:], 1<<40) },
		"end before start":          func(_, a []byte) { binary.LittleEndian.PutUint64(entry(a, 2)[40:], 1) },
		"start that wraps":          func(_, a []byte) { binary.LittleEndian.PutUint64(entry(a, 2)[32:], 1<<63+5) },
		"over the table":            func(_, a []byte) { binary.LittleEndian.PutUint64(entry(a, 1)[32:], 0) },
		"overlap":                   func(_, a []byte) { copy(entry(a, 2)[32:48], entry(a, 3)[32:48]) },
		"two of one name":           func(_, a []byte) { copy(entry(a, 2)[56:], entry(a, 4)[56:]) },
		"one missing":               func(_, a []byte) { clear(entry(a, 5)) },
		"env too small for copies":  func(_, a []byte) { copy(entry(a, 1)[40:48], entry(a, 1)[32:40]) },
		"another, over everything":  func(_, a []byte) { copy(entry(a, 9), entry(a, 1)); entry(a, 9)[56] = 'x' },
		"another, of no known name": func(_, a []byte) { copy(entry(a, 9), bytes.Repeat([]byte{0xff}, entrySize)) },
	} {
		f := newFlash(t, small)
		edit(t, f, change)
		if got, err := Read(f, small.Total()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v; want ErrInvalid", name, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	flash := newFlash(f, small)
	head, tail := make([]byte, headSize), make([]byte, tailSize)
	_, err1 := flash.ReadAt(head, 0)
	_, err2 := flash.ReadAt(tail, small.Total()-tailSize)
	if err := errors.Join(err1, err2); err != nil {
		f.Fatal(err)
	}
	f.Add(head[sector:], tail)
	f.Add(make([]byte, sector), tail)
	f.Add(head[sector:], []byte("EFI PART"))
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		size := small.Total()
		image := sparse{head: append(make([]byte, sector), head...), tail: tail, size: size}
		got, err := Read(image, size)
		if err != nil {
			return
		}
		for _, p := range got {
			if p.Offset < headSize || p.Size <= 0 || p.Offset+p.Size > size {
				t.Errorf("partition %v lies outside the flash of %d bytes", p, size)
			}
		}
	})
}

// sparse is a flash of size bytes with something at its ends.
type sparse struct {
	head, tail []byte
	size       int64
}

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	for i := range b {
		b[i] = 0
		if at := off + int64(i); at < int64(len(s.head)) {
			b[i] = s.head[at]
		} else if at -= s.size - tailSize; at >= 0 && at < int64(len(s.tail)) {
			b[i] = s.tail[at]
		}
	}
	return len(b), nil
}
