package link

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// Where the fuzzed card's rings are, as offsets in its memory; each ring has
// fuzzSize entries.
const (
	fuzzSize  = 16
	fuzzMem   = 1 << 20
	fuzzGuest = 0x4000_0000
	fuzzUser  = 0x7f00_0000_0000
	fuzzRing  = 0x1000 // from one ring to the next: desc, avail at 0x400, used at 0x800
	fuzzTable = 0x8000
	fuzzData  = 0x10000
)

// bare is a pump without a keeper, over memory that holds whatever a fuzzer
// wrote. A packet socket pair stands for the TUN, so it needs no privilege.
type bare struct {
	t     testing.TB
	r     *running
	board *board
	mem   []byte
	file  *os.File
	host  int
	kicks [2]*os.File
}

func newBare(t testing.TB) *bare { return newBareSpinning(t, 0) }

func newBareSpinning(t testing.TB, spin time.Duration) *bare {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	theirs := os.NewFile(uintptr(pair[1]), "host")
	defer theirs.Close()
	return newBareOn(t, pair[0], theirs, spin)
}

// newBareOn has theirs for the host's end, and host, if it is not -1, is what
// stands for the host.
func newBareOn(t testing.TB, host int, theirs *os.File, spin time.Duration) *bare {
	b := &bare{t: t, host: host}
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
	check()
	b.file = os.NewFile(uintptr(fd), "fuzz")
	err = b.file.Truncate(fuzzMem)
	check()
	b.mem, err = unix.Mmap(fd, 0, fuzzMem, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check()
	b.board, err = newBoard(1)
	check()
	for i := range b.kicks {
		e, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		b.kicks[i] = os.NewFile(uintptr(e), "kick")
	}
	b.r, err = start(here, answerWithin)
	check()
	b.send(order{Op: opInit, Setup: inJSON(setup{Name: "fuzz", Pairs: 1, Seam: true, Spin: int64(spin)})}, b.board.File, theirs)
	b.send(order{Op: opMemory, Regions: []vhostuser.Region{{Guest: fuzzGuest, User: fuzzUser, Size: fuzzMem}}}, b.file)
	t.Cleanup(b.close)
	return b
}

func (b *bare) close() {
	b.r.end()
	for range b.r.news {
	}
	b.r.closeOrders()
	b.board.Close()
	unix.Munmap(b.mem)
	closeAll(append(b.kicks[:], b.file))
	if b.host >= 0 {
		unix.Close(b.host)
	}
}

func (b *bare) send(o order, files ...*os.File) {
	b.t.Helper()
	if _, err := b.r.send(o, files...); err != nil {
		b.t.Fatalf("order %s: %v", o.Op, err)
	}
}

func (b *bare) u16(off int) *uint16 { return (*uint16)(unsafe.Pointer(&b.mem[off])) }

// ready writes one ring and starts it.
func (b *bare) ready(i int, base, ahead uint16, descs, heads []byte) {
	at := i * fuzzRing
	clear(b.mem[at : at+fuzzRing])
	copy(b.mem[at:at+16*fuzzSize], descs)
	copy(b.mem[at+0x404:at+0x404+2*fuzzSize], heads)
	*b.u16(at + 0x402) = base + ahead
	b.send(order{Op: opStart, Index: i, Ring: &vhostuser.Ring{Size: fuzzSize, Base: base, Enabled: true,
		Desc: fuzzUser + uint64(at), Avail: fuzzUser + uint64(at) + 0x400, Used: fuzzUser + uint64(at) + 0x800}}, b.kicks[i])
	b.send(order{Op: opRun, Index: i})
}

// head is what the avail ring holds at an index.
func (b *bare) head(i int, index uint16) uint16 {
	return *b.u16(i*fuzzRing + 0x404 + 2*int(index%fuzzSize))
}

// judge checks what the device made of ring i: every head that it consumed is
// back once and in order.
func (b *bare) judge(i int, base, ahead uint16) {
	b.t.Helper()
	used := *b.u16(i*fuzzRing + 0x802)
	if n := used - base; n > ahead || n > fuzzSize {
		b.t.Fatalf("ring %d: %d heads returned of %d", i, n, ahead)
	}
	for k := base; k != used; k++ {
		e := i*fuzzRing + 0x804 + 8*int(k%fuzzSize)
		if id := binary.LittleEndian.Uint32(b.mem[e:]); id != uint32(b.head(i, k)) {
			b.t.Fatalf("ring %d: head %d came back as %d", i, b.head(i, k), id)
		}
	}
}

// expected is how many heads of the send ring a device consumes.
func (b *bare) expected(base, ahead uint16) (n uint16) {
	if ahead > fuzzSize {
		return 0
	}
	for n < ahead && b.head(1, base+n) < fuzzSize {
		n++
	}
	return n
}

// host takes what came out and looks whether it should have.
func (b *bare) drain() {
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(b.host, buf)
		if err != nil {
			return
		}
		p := buf[min(frame.HeaderLen, n):n]
		if len(p) < 20 || len(p) > frame.MaxPacket {
			b.t.Fatalf("a packet of %d bytes reached the host", len(p))
		}
		if v := p[0] >> 4; v == 6 && len(p) < 40 {
			b.t.Fatalf("an IPv6 packet of %d bytes reached the host", len(p))
		}
	}
}

// FuzzPump puts a fuzzer's descriptors, avail rings and frames before a real
// pump: it neither panics nor hangs, returns every head that it consumes
// once and in order, lets no short frame through, and serves good rings
// afterwards as before.
func FuzzPump(f *testing.F) {
	d := func(addr uint64, n uint32, flags, next uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		b = binary.LittleEndian.AppendUint32(b, n)
		return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, flags), next)
	}
	good := append(make([]byte, 24), append([]byte{8, 0, 0x45}, make([]byte, 60)...)...)
	heads := []byte{0, 0, 1, 0, 2, 0, 3, 0}
	f.Add(d(fuzzGuest+fuzzData, 80, 0, 0), d(fuzzGuest+0x80000, 4096, 2, 0), []byte{}, heads, good, uint16(1), uint16(0))
	f.Add(append(d(fuzzGuest+fuzzData, 80, 1, 1), d(fuzzGuest+fuzzData, 80, 1, 0)...), d(fuzzGuest+0x80000, 10, 2, 0), []byte{}, heads, good, uint16(4), uint16(65534))
	f.Add(d(fuzzGuest+fuzzTable, 32, 4, 0), d(fuzzGuest+fuzzTable, 16, 4, 0), append(d(fuzzGuest+fuzzData, 26, 1, 1), d(fuzzGuest+fuzzData+26, 40, 0, 0)...), heads, good, uint16(1), uint16(9))
	f.Add(d(fuzzGuest, 256, 4, 0), d(^uint64(0), 4096, 2, 0), []byte{}, []byte{99, 99}, good[:20], uint16(16), uint16(0))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, []byte{}, uint16(17), uint16(0))
	var b *bare
	f.Cleanup(func() {
		if b != nil {
			b.t = f
			b.close()
		}
	})
	f.Fuzz(func(t *testing.T, send, receive, table, heads, data []byte, ahead, base uint16) {
		if b == nil {
			b = newBare(noCleanup{t})
			b.send(order{Op: opOffer, Features: vhostuser.RingIndirect | vhostuser.NetMergeable | vhostuser.NetHostTSO4 | vhostuser.NetCSum})
		}
		b.t = t
		copy(b.mem[fuzzTable:fuzzTable+0x1000], table)
		copy(b.mem[fuzzData:fuzzData+0x8000], data)
		unix.Write(b.host, append(make([]byte, frame.HeaderLen), append([]byte{0x45}, make([]byte, 99)...)...))
		b.ready(0, base, ahead, receive, heads)
		b.ready(1, base, ahead, send, heads)
		// The fuzzer's frames may be written over the avail ring by the
		// device itself, if a receive buffer lies there: then nothing is
		// known but that it lives.
		overwritten := receive != nil && overlaps(receive, table)
		want := b.expected(base, ahead)
		for deadline := time.Now().Add(2 * time.Second); !overwritten && *b.u16(fuzzRing + 0x802)-base != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%d heads returned, want %d", *b.u16(fuzzRing + 0x802)-base, want)
			}
			time.Sleep(10 * time.Microsecond)
		}
		b.send(order{Op: opStop, Index: 0})
		b.send(order{Op: opStop, Index: 1})
		if !overwritten {
			b.judge(0, base, ahead)
			b.judge(1, base, ahead)
		}
		b.drain()
	})
}

// inJSON is a value as an order carries it.
func inJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// overlaps says whether any descriptor may let the device write to the rings.
func overlaps(lists ...[]byte) bool {
	for _, l := range lists {
		for ; len(l) >= 16; l = l[16:] {
			if addr := binary.LittleEndian.Uint64(l); addr >= fuzzGuest && addr < fuzzGuest+fuzzData+0x8000 {
				return true
			}
		}
	}
	return false
}

// noCleanup is a testing.TB that keeps a pump over many inputs.
type noCleanup struct{ testing.TB }

func (noCleanup) Cleanup(func()) {}
