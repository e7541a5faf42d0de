package vring

import (
	"bytes"
	"errors"
	"math/bits"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/emulated"
)

// Value fetched twice (CVE-2026-93683, CVE-2026-86562): while a driver flips
// descriptors as fast as it can, the result of Take is always inside the memory
// and its size is the sum of its segments. The test ends when the descriptors have
// changed often enough while Take was reading them.
func TestFetchedOnce(t *testing.T) {
	const limit = 30 * time.Second
	enough := 2000
	if runtime.GOMAXPROCS(0) == 1 {
		enough = 5 // it takes a change of threads in the middle
	}
	g := newRig(t, Config{Write: true, Indirect: true})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for _, d := range []descriptor{
				{guestBase + bufferAt, 100, descWrite | descNext, 1},
				{^uint64(0) - 50, 0xffffffff, descWrite | descNext, 0xffff},
				{guestBase + tableAt, 32, descIndirect, 0},
				{guestBase + memSize - 4, 4, descWrite, 0},
				{guestBase + descAt, 128, descIndirect | descWrite, 0},
			} {
				at := (i & 3) * 16
				*(*descriptor)(unsafe.Pointer(&g.mem[descAt+at])) = d.swap()
				*(*descriptor)(unsafe.Pointer(&g.mem[tableAt+at])) = d.swap()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	iov := make([]unix.Iovec, 0, 16)
	good, bad, during := 0, 0, 0
	for end := time.Now().Add(limit); during < enough || good == 0 || bad == 0; {
		if time.Now().After(end) {
			t.Fatalf("in %s the descriptors changed %d times under Take, want %d; %d good, %d bad", limit, during, enough, good, bad)
		}
		head := uint16(good+bad) & 3
		g.avail(head)
		before := g.get64(descAt + 16*int(head))
		head, out, size, err := g.take(iov)
		if g.get64(descAt+16*int(head)) != before {
			during++
		}
		if err != nil && !errors.Is(err, ErrChain) {
			t.Fatal(err)
		}
		sum := 0
		for _, v := range out {
			sum += int(v.Len)
		}
		if g.inside(out); sum != size {
			t.Fatalf("%d bytes in segments of %d", size, sum)
		}
		if g.r.Complete(head, 0); err == nil {
			good++
		} else {
			bad++
		}
		g.r.Show()
	}
}

// A memory file that is truncated under its mapping raises SIGBUS. It must become
// a panic, which can be reported, and not kill the process.
func TestFileTruncated(t *testing.T) {
	if os.Getenv("VRING_TRUNCATE") == "" {
		cmd := emulated.Command(os.Args[0], "-test.run=^TestFileTruncated$", "-test.v")
		cmd.Env = append(os.Environ(), "VRING_TRUNCATE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("fault was caught")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	fd, err := unix.MemfdCreate("truncated", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	unix.Ftruncate(fd, 1<<16)
	region, err := Map(fd, guestBase, userBase, 1<<16, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := NewMemory(region)
	r, err := New(m, Config{Size: 8, Desc: userBase, Avail: userBase + 0x1000, Used: userBase + 0x2000})
	if err != nil {
		t.Fatal(err)
	}
	unix.Ftruncate(fd, 0)
	debug.SetPanicOnFault(true)
	defer func() {
		if recover() == nil {
			t.Fatal("no fault")
		}
		t.Log("fault was caught")
		if err := region.Unmap(); err != nil {
			t.Fatal(err)
		}
	}()
	r.Waiting()
}

// Map refuses what the file does not hold.
// A region of more than 4 GiB is mapped whole, or refused where addresses have 32 bits: a size that
// is cut to 32 bits would make a small mapping of it, and the rest of memory a part of the card's.
func TestMapLarge(t *testing.T) {
	fd, err := unix.MemfdCreate("large", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const size = 1<<32 + 1<<16
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	r, err := Map(fd, guestBase, userBase, size, 0)
	if (err == nil) != (bits.UintSize == 64) {
		t.Errorf("a region of %d bytes with addresses of %d bits: %v", uint64(size), bits.UintSize, err)
	}
	if err == nil {
		*(*byte)(unsafe.Add(r.Host, r.Size-1)) = 1
		if err := r.Unmap(); err != nil {
			t.Error(err)
		}
	}
}

func TestMapRefuses(t *testing.T) {
	fd, err := unix.MemfdCreate("map", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	unix.Ftruncate(fd, 1<<16)
	pipe := make([]int, 2)
	unix.Pipe2(pipe, unix.O_CLOEXEC)
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for _, c := range []struct {
		name                      string
		fd                        int
		guest, user, size, offset uint64
		good                      bool
	}{
		{"whole", fd, guestBase, userBase, 1 << 16, 0, true},
		{"an offset within a page", fd, guestBase, userBase, 1<<16 - 100, 100, true},
		{"empty", fd, guestBase, userBase, 0, 0, false},
		{"a byte too many", fd, guestBase, userBase, 1<<16 + 1, 0, false},
		{"offset behind the end", fd, guestBase, userBase, 1, 1 << 16, false},
		{"offset and size wrap", fd, guestBase, userBase, ^uint64(0) - 4095, 1 << 13, false},
		{"guest address wraps", fd, ^uint64(0) - 10, userBase, 1 << 12, 0, false},
		{"user address wraps", fd, guestBase, ^uint64(0) - 10, 1 << 12, 0, false},
		{"a pipe", pipe[0], guestBase, userBase, 1 << 12, 0, false},
		{"no descriptor", -1, guestBase, userBase, 1 << 12, 0, false},
	} {
		r, err := Map(c.fd, c.guest, c.user, c.size, c.offset)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			*(*byte)(r.Host) = 1
			if err := r.Unmap(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	if _, err := NewMemory(Region{Guest: 0, Size: 10}, Region{Guest: 9, Size: 10}); err == nil {
		t.Error("regions that overlap were taken")
	}
	if _, err := NewMemory(Region{Guest: 10, Size: ^uint64(0) - 5}); err == nil {
		t.Error("a region that wraps was taken")
	}
}

// Mapping removed under a running ring: Moved continues in the new table and
// refuses a table that does not hold the ring. Heads that were taken come again.
func TestMoved(t *testing.T) {
	g := newRig(t, Config{Write: true, Base: 65534})
	other := newRig(t, Config{})
	for i := range 4 {
		g.desc(0, i, guestBase+bufferAt, uint32(i+1), descWrite, 0)
		g.avail(uint16(i))
	}
	iov := make([]unix.Iovec, 0, 4)
	for i := range 3 {
		head, _, _, err := g.take(iov)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			g.r.Complete(head, 1)
		}
	}
	copy(other.mem, g.mem)
	before := g.usedIdx()
	half, _ := NewMemory(Region{Guest: guestBase, User: userBase, Size: usedAt, Host: unsafe.Pointer(&g.mem[0])})
	if _, err := g.r.Moved(half); !errors.Is(err, ErrAddress) {
		t.Fatalf("a table without the used ring: %v", err)
	}
	if g.usedIdx() != before {
		t.Error("a refused move wrote to memory")
	}
	r, err := g.r.Moved(other.m)
	if err != nil {
		t.Fatal(err)
	}
	clear(g.mem) // as if it were gone
	other.r, other.next = r, g.next
	for want := uint16(1); want < 4; want++ {
		head, out, _, err := other.take(iov)
		if err != nil || head != want {
			t.Fatalf("head %d, %v, want %d", head, err, want)
		}
		other.inside(out)
		r.Complete(head, 0)
	}
	r.Show()
	if id, size := other.used(65534); id != 0 || size != 1 {
		t.Errorf("what was completed before the move: head %d of %d bytes", id, size)
	}
	if other.usedIdx() != g.next {
		t.Errorf("used index %d, want %d", other.usedIdx(), g.next)
	}
}

// A pump that dies leaves its complete state in the used index. The next one takes
// the heads that were not shown again, and calls the driver once to be sure.
func TestTakeOver(t *testing.T) {
	for _, start := range []int{0, 65533, 65535} {
		g := newRig(t, Config{Write: true, Base: start, EventIdx: true})
		for i := range 6 {
			g.desc(0, i, guestBase+bufferAt, 10, descWrite, 0)
			g.avail(uint16(i))
		}
		iov := make([]unix.Iovec, 0, 4)
		for i := range 5 {
			head, _, _, err := g.take(iov)
			if err != nil || int(head) != i {
				t.Fatalf("head %d, %v", head, err)
			}
			if i < 3 {
				g.r.Complete(head, 1)
			}
			if i == 1 {
				g.r.Show() // 0 and 1; then it dies
			}
		}
		next := g.next
		cfg := g.cfg
		cfg.Base = -1
		r, err := New(g.m, cfg)
		if err != nil {
			t.Fatal(err)
		}
		g.r = r
		if n, err := r.Waiting(); n != 4 || err != nil {
			t.Fatalf("from %d: %d wait, %v; want 4", start, n, err)
		}
		g.usedEvent(next + 1000) // the driver wants no call: the first comes all the same
		for want := uint16(2); want < 6; want++ {
			head, _, _, err := r.Take(iov)
			if err != nil || head != want {
				t.Fatalf("from %d: head %d, %v; want %d", start, head, err, want)
			}
			r.Complete(head, 0)
		}
		r.Show()
		if g.usedIdx() != next {
			t.Errorf("from %d: used index %d, want %d", start, g.usedIdx(), next)
		}
		if !r.MustCall() {
			t.Errorf("from %d: no call after the take-over", start)
		}
	}
}

// The front end's base takes precedence over the memory (QEMU itself completes
// queued heads).
func TestBaseCounts(t *testing.T) {
	g := newRig(t, Config{Base: 5})
	g.put16(usedAt+2, 99)
	g.open(Config{Base: 7})
	if g.usedIdx() != 7 || g.r.Base() != 7 {
		t.Errorf("used index %d, base %d, want 7", g.usedIdx(), g.r.Base())
	}
}

// MustCall against virtio 1.2's vring_need_event and a driver that moves
// used_event at random, over the wrap at 65535.
func TestMustCallModel(t *testing.T) {
	g := newRig(t, Config{Write: true, EventIdx: true, Base: 65500, Size: 64})
	g.desc(0, 0, guestBase+bufferAt, 1, descWrite, 0)
	rnd := uint32(1)
	random := func(n uint32) uint16 { rnd = rnd*1664525 + 1013904223; return uint16((rnd >> 8) % n) }
	iov := make([]unix.Iovec, 0, 4)
	called, first := uint16(65500), true
	for round := range 4000 {
		k := random(5)
		for range k {
			g.avail(0)
			head, _, _, err := g.take(iov)
			if err != nil {
				t.Fatal(err)
			}
			g.r.Complete(head, 1)
		}
		event := called + random(8) - 3
		g.usedEvent(event)
		g.r.Show()
		now := g.usedIdx()
		// The event lies in [called, now): counted one by one.
		want := false
		for i := called; i != now; i++ {
			want = want || i == event
		}
		want = want || first && k > 0
		if got := g.r.MustCall(); got != want {
			t.Fatalf("round %d: from %d to %d, event %d: %v, want %v", round, called, now, event, got, want)
		}
		first = first && k == 0
		called = now
	}
	if g.usedIdx() > 65500 {
		t.Error("the index never wrapped")
	}
}

// Flags instead of event indexes.
func TestFlags(t *testing.T) {
	g := newRig(t, Config{Write: true})
	g.desc(0, 0, guestBase+bufferAt, 1, descWrite, 0)
	iov := make([]unix.Iovec, 0, 4)
	for round, c := range []struct {
		flags uint16
		want  bool
	}{{1, true}, {0, true}, {1, false}, {0, true}} { // the first call comes in any case
		g.flags(c.flags)
		g.avail(0)
		head, _, _, _ := g.take(iov)
		g.r.Complete(head, 0)
		g.r.Show()
		if got := g.r.MustCall(); got != c.want {
			t.Errorf("round %d: flags %d: %v", round, c.flags, got)
		}
		if g.r.MustCall() {
			t.Errorf("round %d: called twice for one", round)
		}
	}
	g.r.NoKicks()
	if g.get16(usedAt) != noNotify {
		t.Error("NoKicks does not say so")
	}
	if g.r.WantKicks() || g.get16(usedAt) != 0 {
		t.Error("WantKicks does not say so")
	}
	g.avail(0)
	if !g.r.WantKicks() {
		t.Error("a head that came meanwhile is slept over")
	}
}

// WantKicks against the driver's arithmetic: behind it, the very next head
// makes a driver kick, also over the wrap; and a head that is there is seen.
func TestWantKicksModel(t *testing.T) {
	g := newRig(t, Config{Write: true, EventIdx: true, Base: 65500})
	g.desc(0, 0, guestBase+bufferAt, 1, descWrite, 0)
	iov := make([]unix.Iovec, 0, 4)
	for i := range 100 {
		if g.r.WantKicks() {
			t.Fatalf("%d: work where there is none", i)
		}
		old := g.next
		g.avail(0)
		if now := g.next; now-g.availEvent()-1 >= now-old {
			t.Fatalf("%d: avail_event %d: the driver would not kick from %d to %d", i, g.availEvent(), old, now)
		}
		if !g.r.WantKicks() {
			t.Fatalf("%d: a head that came before the notification request is slept over", i)
		}
		if n, err := g.r.Waiting(); n != 1 || err != nil {
			t.Fatalf("%d: %d wait, %v", i, n, err)
		}
		head, _, _, _ := g.r.Take(iov)
		g.r.Complete(head, 0)
		g.r.Show()
	}
}

// A packet costs no allocation.
func TestNoAllocations(t *testing.T) {
	g := newRig(t, Config{Write: true, Indirect: true, EventIdx: true})
	g.desc(0, 0, guestBase+tableAt, 32, descIndirect, 0)
	g.desc(tableAt, 0, guestBase+bufferAt, 10, descWrite|descNext, 1)
	g.desc(tableAt, 1, guestBase+bufferAt, 10, descWrite, 0)
	g.desc(0, 1, 0, 10, descWrite, 0) // bad
	iov := make([]unix.Iovec, 0, 16)
	if n := testing.AllocsPerRun(1000, func() {
		for i := range uint16(2) {
			g.avail(i)
			g.r.Waiting()
			head, _, _, _ := g.r.Take(iov)
			g.r.Untake()
			g.r.Take(iov)
			g.r.Complete(head, 20)
		}
		g.r.Show()
		g.r.MustCall()
		g.r.NoKicks()
		g.r.WantKicks()
	}); n != 0 {
		t.Errorf("%v allocations for two packets", n)
	}
}

// FuzzRing runs a ring over memory that the fuzzer wrote: no panic, nothing
// outside the memory, bounded work, and every head that is taken comes back
// exactly once and in order.
func FuzzRing(f *testing.F) {
	f.Add(uint16(1), uint16(0), []byte{}, []byte{}, []byte{0, 0}, uint8(0))
	f.Add(uint16(3), uint16(65534), seed(guestBase+bufferAt, 100, descWrite|descNext, 1, guestBase, 50, descWrite, 0), []byte{}, []byte{0, 0, 1, 0, 0, 0}, uint8(1))
	f.Add(uint16(8), uint16(0), seed(guestBase+tableAt, 32, descIndirect, 0), seed(guestBase, 10, descWrite|descNext, 1, guestBase, 1, descWrite|descNext, 0), []byte{0, 0, 9, 0}, uint8(3))
	f.Add(uint16(8), uint16(0), seed(guestBase+descAt, 128, descIndirect, 0, ^uint64(0), 1, 0, 0), []byte{}, []byte{0, 0, 1, 0, 0, 0}, uint8(3))
	f.Add(uint16(9), uint16(7), []byte{}, []byte{}, []byte{}, uint8(7))
	f.Fuzz(func(t *testing.T, ahead, base uint16, descs, table, heads []byte, how uint8) {
		cfg := Config{Size: 8, Base: int(base), Write: how&1 != 0, Indirect: how&2 != 0, EventIdx: how&4 != 0}
		g := newRig(t, cfg)
		copy(g.mem[descAt:descAt+8*16], descs)
		copy(g.mem[tableAt:tableAt+64*16], table)
		copy(g.mem[availAt+4:availAt+4+16], heads)
		g.idx(base + ahead)
		iov := make([]unix.Iovec, 0, 16)
		var taken []uint16
		for {
			n, err := g.r.Waiting()
			if (err != nil) != (ahead > 8) {
				t.Fatalf("%d ahead: %v", ahead, err)
			}
			if err != nil || n == 0 {
				break
			}
			head, out, size, err := g.r.Take(iov)
			if errors.Is(err, ErrBroken) {
				break
			}
			if err != nil && (!errors.Is(err, ErrChain) || len(out) != 0 || size != 0) {
				t.Fatalf("%v with %d segments of %d bytes", err, len(out), size)
			}
			if size > MaxChain || len(taken) == 8 {
				t.Fatalf("%d bytes, %d heads", size, len(taken))
			}
			g.inside(out)
			taken = append(taken, head)
			g.r.Complete(head, size)
		}
		g.r.Show()
		g.r.MustCall()
		g.r.WantKicks()
		if got := g.usedIdx() - base; int(got) != len(taken) {
			t.Fatalf("%d heads taken, %d returned", len(taken), got)
		}
		for i, head := range taken {
			if id, _ := g.used(base + uint16(i)); id != uint32(head) {
				t.Fatalf("head %d came back as %d", head, id)
			}
		}
	})
}

// seed makes descriptors of (addr, len, flags, next).
func seed(v ...uint64) (b []byte) {
	for i := 0; i+3 < len(v); i += 4 {
		d := descriptor{v[i], uint32(v[i+1]), uint16(v[i+2]), uint16(v[i+3])}.swap()
		b = append(b, unsafe.Slice((*byte)(unsafe.Pointer(&d)), 16)...)
	}
	return b
}

// FuzzCommand is FuzzRing for a ring with both directions.
func FuzzCommand(f *testing.F) {
	f.Add(seed(guestBase+bufferAt, 4, descNext, 1, guestBase, 1, descWrite, 0), []byte{}, []byte{0, 0}, uint8(0))
	f.Add(seed(guestBase+bufferAt, 4, descNext, 1, guestBase, 1, descWrite|descNext, 2, guestBase, 1, 0, 0), []byte{}, []byte{0, 0}, uint8(0))
	f.Add(seed(guestBase+tableAt, 32, descIndirect, 0), seed(guestBase, 3, descNext, 1, guestBase+3, 1, descWrite, 0), []byte{0, 0}, uint8(1))
	f.Add(seed(guestBase, 0, descNext, 1, guestBase, 0, descWrite, 0), []byte{}, []byte{0, 0, 9, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, descs, table, heads []byte, how uint8) {
		g := newRig(t, Config{Size: 8, Both: true, Indirect: how&1 != 0})
		copy(g.mem[descAt:descAt+8*16], descs)
		copy(g.mem[tableAt:tableAt+64*16], table)
		copy(g.mem[availAt+4:availAt+4+16], heads)
		g.idx(8)
		taken := uint16(0)
		for {
			if n, err := g.r.Waiting(); err != nil || n == 0 {
				break
			}
			var to [4]byte
			head, n, ack, err := g.r.TakeCommand(to[:])
			if errors.Is(err, ErrBroken) {
				break
			}
			if err != nil && !errors.Is(err, ErrChain) || n > len(to) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if ack != nil {
				g.inside([]unix.Iovec{{Base: ack, Len: 1}})
				*ack = 1
			}
			taken++
			g.r.Complete(head, 1)
		}
		g.r.Show()
		if g.usedIdx() != taken {
			t.Fatalf("%d commands taken, %d returned", taken, g.usedIdx())
		}
	})
}
