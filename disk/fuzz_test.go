package disk_test

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/toe-project/toe/disk/disktest"
	"github.com/toe-project/toe/link/fakecard"
)

// FuzzRequests has a card offer whatever descriptors, headers and heads the fuzzer makes up: the
// worker goes on, the file keeps its size, and the next card's disk works.
func FuzzRequests(f *testing.F) {
	d := func(addr uint64, n uint32, flags, next uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		b = binary.LittleEndian.AppendUint32(b, n)
		return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, flags), next)
	}
	head := func(kind uint32, sector uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(kind)), sector)
	}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	const (
		base = fakecard.GuestBase
		data = base + disktest.DataAt
		next = fakecard.Next
		wr   = fakecard.Write
	)
	good := join(d(data, 16, next, 1), d(data+4096, 4096, next|wr, 2), d(data+16, 1, wr, 0))
	f.Add(good, head(in, 0), []byte{0, 0}, uint16(1))
	f.Add(join(d(data, 16, next, 1), d(data+4096, 512, next, 2), d(data+16, 1, wr, 0)), head(out, 8191), []byte{0, 0, 0, 0}, uint16(2))
	f.Add(join(d(data, 16+16, next, 1), d(data+100, 1, wr, 0)), join(head(discard, 0), span(0, 8, 0)), []byte{0, 0}, uint16(1))
	f.Add(join(d(data, 16, next, 0)), head(flush, 0), []byte{0, 0, 1, 0}, uint16(3))
	f.Add(join(d(base+0x8000, 48, fakecard.Indirect, 0)), head(getID, 0), []byte{0, 0}, uint16(1))
	f.Add([]byte{}, []byte{}, []byte{0xff, 0xff}, uint16(1))
	f.Add(good, head(in, ^uint64(0)), []byte{0, 0}, uint16(disktest.Entries+1))
	w := newWorld(f, options{})
	socket := w.socket
	f.Fuzz(func(t *testing.T, descs, header, heads []byte, ahead uint16) {
		w.Card.Close()
		var err error
		if w.Card, err = disktest.Connect(socket, 0); err != nil {
			t.Fatal(err)
		}
		copy(w.Mem[disktest.DataAt:], header)
		copy(w.Mem[0x8000:0x9000], descs)
		w.Raw(descs, heads, ahead)
		if n := w.Settle(); n > ahead || n > disktest.Entries {
			t.Errorf("%d requests completed of %d", n, ahead)
		}
		w.Card.Close()
		if w.Card, err = disktest.Connect(socket, 0); err != nil {
			t.Fatal(err)
		}
		w.must(t, ok, in, 0, make([]byte, 4096), true)
		if st, err := os.Stat(w.path); err != nil || st.Size() != size {
			t.Errorf("the file: %v, %v", st, err)
		}
	})
}
