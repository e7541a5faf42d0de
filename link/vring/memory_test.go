package vring

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// fuzzFile is the length of the file that FuzzMemory maps pieces of.
const fuzzFile = 1 << 16

// regionLen is a region in FuzzMemory's input: guest, user, size, offset.
const regionLen = 32

// FuzzMemory maps a table of regions as a front end names them, and asks for
// addresses in it: whatever overlaps or wraps is refused, nothing panics, and no
// address comes out that is not mapped for exactly what was asked for.
func FuzzMemory(f *testing.F) {
	table := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
		return b
	}
	const most = ^uint64(0)
	f.Add(table(guestBase, userBase, fuzzFile, 0), uint64(guestBase+100), uint64(userBase+100), uint64(1000))
	f.Add(table(guestBase, userBase, 0x8000, 0, guestBase+0x8000, userBase+0x8000, 0x8000, 0x8000), uint64(guestBase+0x7fff), uint64(userBase+0x7fff), uint64(2))
	f.Add(table(guestBase, userBase, 0x8000, 0, guestBase+0x7fff, userBase, 0x8000, 0), uint64(guestBase), uint64(userBase), uint64(1))                     // overlap by a byte
	f.Add(table(guestBase, userBase, 0x1000, 0, guestBase, userBase, 0x1000, 0x1000), uint64(guestBase), uint64(userBase), uint64(0))                       // twice the same
	f.Add(table(guestBase+0x2000, userBase, 0x100, 3, guestBase, userBase+1, 0xfff, 4095), uint64(guestBase+0xffe), uint64(userBase+0xfff), uint64(2))      // unaligned
	f.Add(table(most-0xfff, most-0xfff, 0x1000, 0), most, most, uint64(1))                                                                                  // ends at 2^64
	f.Add(table(most-0xffe, userBase, 0xfff, 0, 0, 0, 0x1000, 0), most, uint64(0), most)                                                                    // one byte less
	f.Add(table(guestBase, most-0x10, 0x100, 0), uint64(guestBase), most, uint64(0x20))                                                                     // wraps in user addresses
	f.Add(table(guestBase, userBase, most, 0), uint64(guestBase), uint64(userBase), most)                                                                   // as large as can be said
	f.Add(table(guestBase, userBase, 0x1000, most-0xfff), uint64(guestBase), uint64(userBase), uint64(1))                                                   // the offset wraps
	f.Add(table(guestBase, userBase, fuzzFile, 1), uint64(guestBase), uint64(userBase), uint64(1))                                                          // a byte more than the file
	f.Add(table(guestBase, userBase, 0, 0), uint64(guestBase), uint64(userBase), uint64(0))                                                                 // empty
	f.Add(table(guestBase, userBase, 0x2000, 0, guestBase+0x2000, userBase+0x1000, 0x2000, 0x4000), uint64(guestBase), uint64(userBase+0x1800), uint64(64)) // overlap in user addresses
	var many []uint64
	for i := range uint64(64) {
		many = append(many, guestBase+(63-i)*0x400, userBase+i*0x400, 0x400, i*0x400)
	}
	f.Add(table(many...), uint64(guestBase+0x3ff), uint64(userBase+0x3ff), uint64(0x8000))
	fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "fuzz")
	f.Cleanup(func() { file.Close() })
	if err := file.Truncate(fuzzFile); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, table []byte, guest, user, size uint64) {
		var regions []Region
		defer func() {
			for _, r := range regions {
				if err := r.Unmap(); err != nil {
					t.Error(err)
				}
			}
		}()
		for ; len(table) >= regionLen && len(regions) < 64; table = table[regionLen:] {
			v := func(i int) uint64 { return binary.LittleEndian.Uint64(table[8*i:]) }
			r, err := Map(fd, v(0), v(1), v(2), v(3))
			if fits := v(2) > 0 && v(2) <= fuzzFile && v(3) <= fuzzFile-v(2); err == nil && !fits {
				t.Fatalf("%d bytes at %d of a file of %d were mapped", v(2), v(3), fuzzFile)
			}
			if err == nil {
				regions = append(regions, r)
			}
		}
		m, err := NewMemory(regions...)
		if bad := clash(regions); bad != (err != nil) {
			t.Fatalf("regions %+v overlap %v: %v", regions, bad, err)
		}
		if err != nil {
			return
		}
		// What was asked for, and every end of every region.
		ask(t, m, regions, guest, user, size)
		for _, r := range regions {
			for _, d := range []uint64{^uint64(0), 0, 1, r.Size - 1, r.Size} {
				ask(t, m, regions, r.Guest+d, r.User+d, size)
				ask(t, m, regions, r.Guest+d, r.User+d, 1)
			}
		}
	})
}

// clash says whether two regions share a guest address.
func clash(regions []Region) bool {
	for i, a := range regions {
		for _, b := range regions[:i] {
			if a.Guest-b.Guest < b.Size || b.Guest-a.Guest < a.Size {
				return true
			}
		}
	}
	return false
}

// ask translates an address of each kind, and checks what comes out by another
// way: where byte i of a region is mapped, and nothing but that.
func ask(t *testing.T, m *Memory, regions []Region, guest, user, size uint64) {
	t.Helper()
	var want *Region
	for i := range regions {
		if guest-regions[i].Guest < regions[i].Size && guest >= regions[i].Guest {
			want = &regions[i]
		}
	}
	p, n, ok := m.at(guest, size)
	if ok != (want != nil) {
		t.Fatalf("guest address %#x: found %v in %+v", guest, ok, regions)
	}
	if ok {
		off := guest - want.Guest
		if uintptr(p) != uintptr(want.Host)+uintptr(off) || n != min(size, want.Size-off) {
			t.Fatalf("guest address %#x: %d bytes at %p, want %#x into %+v", guest, n, p, off, *want)
		}
	}
	q, err := m.user(user, size)
	if err != nil && !errors.Is(err, ErrAddress) {
		t.Fatalf("user address %#x: %v", user, err)
	}
	holds := false // user addresses may overlap: any region will do
	for _, r := range regions {
		off := user - r.User
		if user >= r.User && off <= r.Size && size <= r.Size-off {
			holds = holds || err != nil || uintptr(q) == uintptr(r.Host)+uintptr(off)
		}
	}
	if holds != (err == nil) {
		t.Fatalf("user address %#x of %d bytes: %p, %v in %+v", user, size, q, err, regions)
	}
}
