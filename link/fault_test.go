package link

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// A card that truncates its memory file (SIGBUS at the next access to a ring)
// ends only its pump. The keeper reports it, starts others without the ring or
// pauses for a while, and closes in time.
func TestMemoryFileTruncated(t *testing.T) {
	w := newWorld(t, worldOptions{process: true})
	w.passes(t)
	old := w.k.PumpPID()
	_, tx := w.card.Pair(0)
	if err := w.card.MemoryFile().Truncate(0); err != nil {
		t.Fatal(err)
	}
	tx.Kick()
	w.hasEvent(t, "ended")
	if pid := w.k.PumpPID(); pid == old {
		t.Errorf("pump %d still runs", pid)
	}
	began := time.Now()
	w.card.Close()
	w.card = nil
	w.k.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("closing took %s", d)
	}
}

// A ring outside the memory, or a misaligned one, is refused when the front end
// starts it. The conversation and the other rings go on.
func TestRingOutsideMemory(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.passes(t)
	if _, err := w.card.Stop(1); err != nil {
		t.Fatal(err)
	}
	if err := w.card.StartAt(1, 1<<40); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a ring outside the memory: %v", err)
	}
	w.down(t)
	if err := w.card.Restart(1); err != nil {
		t.Fatal(err)
	}
	w.passes(t)
}

// A keeper whose pump cannot be started returns an error at once and leaves nothing behind.
func TestNoPumpAtAll(t *testing.T) {
	h := newHost(t, false, 1)
	_, err := NewKeeper(Device{Name: "test", MAC: make([]byte, 6), MTU: 65535, Files: h.files, Seam: true},
		Options{Launch: func(*os.File) (Process, error) { return nil, unix.ENOENT }})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v, want ENOENT", err)
	}
}

// Invalid devices are refused, and their files closed.
func TestDeviceCheck(t *testing.T) {
	mac := make([]byte, 6)
	for name, d := range map[string]Device{
		"no file":          {MAC: mac, MTU: 1500},
		"no MAC":           {MTU: 1500, Stream: true},
		"MTU 67":           {MAC: mac, MTU: 67, Stream: true},
		"MTU 65536":        {MAC: mac, MTU: 65536, Stream: true},
		"stream with seam": {MAC: mac, MTU: 1500, Stream: true, Seam: true},
		"file is no TUN":   {MAC: mac, MTU: 1500},
	} {
		if name != "no file" {
			d.Files = newBareFile(t)
		}
		if k, err := NewKeeper(d, Options{Launch: here}); err == nil {
			k.Close()
			t.Errorf("%s: taken", name)
		}
		if len(d.Files) > 0 && d.Files[0].Close() == nil {
			t.Errorf("%s: its file was left open", name)
		}
	}
}

// newBareFile is a host's end that is nothing but a file.
func newBareFile(t testing.TB) []*os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "host")
	if err != nil {
		t.Fatal(err)
	}
	return []*os.File{f}
}

// A receive buffer whose memory is gone (EFAULT in readv) costs only the packet
// that was read into it, which is counted. The packets behind it pass, although an
// edge-triggered descriptor signals them only once.
func TestBufferGone(t *testing.T) {
	b := newBare(t)
	b.fillBehind(0, 100, func(p []byte) { unix.Write(b.host, append(make([]byte, frame.HeaderLen), p...)) })
	if s := b.handled(4); s.Packets != 3 || s.Drops.Fault != 1 {
		t.Errorf("%+v, want 3 packets and 1 fault", s)
	}
	for i, want := range []uint32{0, 126, 126, 126} {
		if id, n := b.used(0, i); id != uint32(i) || n != want {
			t.Errorf("head %d came back with %d bytes in place %d, want %d", id, n, i, want)
		}
	}
}

// A TUN does not report that it could not copy everything (tun_put_user of 6.18
// ignores it). In either case the packets behind it come through.
func TestBufferHalfGoneOnTUN(t *testing.T) {
	h := newHost(t, false, 1)
	defer closeAll(h.files)
	b := newBareOn(t, -1, h.files[0], 0)
	b.fillBehind(4096, 9000, func(p []byte) { h.send(t, vnet{}, p) })
	s := b.handled(4)
	if s.Packets < 3 || s.Drops.Total() != s.Drops.Fault {
		t.Errorf("%+v, want 3 packets or 4", s)
	}
	for i := range 4 {
		if id, n := b.used(0, i); id != uint32(i) || n != 9026 && i > 0 {
			t.Errorf("head %d came back with %d bytes in place %d", id, n, i)
		}
	}
}

// fillBehind sends 4 packets of n bytes and then starts a ring to the card with
// 4 buffers, of the first of which only left bytes are there.
func (b *bare) fillBehind(left int64, n int, send func([]byte)) {
	b.t.Helper()
	gone := b.addMemory(0x2_0000)
	for range 4 {
		send(fakecard.UDP(hostIP, cardIP, 1, 2, n))
	}
	if err := gone.Truncate(left); err != nil {
		b.t.Fatal(err)
	}
	const size = 66000 // the largest packet, and no more
	b.send(order{Op: opOffer, Features: vhostuser.NetMergeable})
	b.ready(0, 0, 4, seedDescs(
		fuzzGuest+fuzzMem, size, 2, 0,
		fuzzGuest+fuzzData, size, 2, 0,
		fuzzGuest+fuzzData+size, size, 2, 0,
		fuzzGuest+fuzzData+2*size, size, 2, 0), []byte{0, 0, 1, 0, 2, 0, 3, 0})
}

// addMemory puts a second region, of a file of its own, behind the first.
func (b *bare) addMemory(size int64) *os.File {
	b.t.Helper()
	fd, err := unix.MemfdCreate("second", unix.MFD_CLOEXEC)
	if err != nil {
		b.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "second")
	b.t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		b.t.Fatal(err)
	}
	b.send(order{Op: opMemory, Regions: []vhostuser.Region{
		{Guest: fuzzGuest, User: fuzzUser, Size: fuzzMem}, {Guest: fuzzGuest + fuzzMem, User: fuzzUser + fuzzMem, Size: uint64(size)}}}, b.file, f)
	return f
}

// handled waits until n packets have gone to the card or been dropped.
func (b *bare) handled(n uint64) (s Direction) {
	b.t.Helper()
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if s = b.board.stats()[0].ToCard; s.Packets+s.Drops.Total() == n {
			return s
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("of %d packets to the card: %+v", n, s)
		}
	}
}

// used is an entry of a ring's used ring.
func (b *bare) used(ring, i int) (id, size uint32) {
	e := b.mem[ring*fuzzRing+0x804+8*i:]
	return binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
}

// seedDescs makes descriptors of (addr, len, flags, next).
func seedDescs(v ...uint64) (b []byte) {
	for i := 0; i+3 < len(v); i += 4 {
		b = binary.LittleEndian.AppendUint64(b, v[i])
		b = binary.LittleEndian.AppendUint32(b, uint32(v[i+1]))
		b = binary.LittleEndian.AppendUint16(b, uint16(v[i+2]))
		b = binary.LittleEndian.AppendUint16(b, uint16(v[i+3]))
	}
	return b
}
