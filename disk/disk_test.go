package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/disk/disktest"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
	"github.com/toe-project/toe/link/worker"
)

func TestMain(m *testing.M) {
	worker.Main() // this program is also the confined worker
	os.Exit(m.Run())
}

const (
	in, out, flush, getID, discard, zeroes = 0, 1, 4, 8, 11, 13

	ok, ioErr, unsupp = 0, 1, 2

	size = 4 << 20
)

type world struct {
	*disktest.Card
	k      *disk.Keeper
	path   string // of the image
	socket string

	mu     sync.Mutex
	events []string
}

type options struct {
	readOnly bool
	process  bool // the worker is a confined process of its own
	wrap     func(disk.File) disk.File
	refuse   uint64
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i / disk.SectorSize)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return newWorldOn(t, path, o)
}

func newWorldOn(t testing.TB, image string, o options) *world {
	t.Helper()
	w := &world{path: image}
	f, err := disk.Open(w.path, o.readOnly)
	if err != nil {
		t.Fatal(err)
	}
	opts := disk.Options{Event: func(e link.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e.Text)
	}}
	if !o.process {
		opts.Launch = disktest.Launch(o.wrap)
	}
	socket := filepath.Join(t.TempDir(), "s")
	w.socket = socket
	if w.k, err = disk.NewKeeper(disk.Disk{Name: "flash", Socket: socket, File: f, ReadOnly: o.readOnly}, opts); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.k.Serve(t.Context()) }()
	t.Cleanup(func() {
		if w.Card != nil {
			w.Card.Close()
		}
		w.k.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("events: %q", w.reported())
		}
	})
	if w.Card, err = disktest.Connect(socket, o.refuse); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) reported() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.events, "\n")
}

// must executes a request and checks its status.
func (w *world) must(t testing.TB, want byte, kind uint32, sector uint64, data []byte, in bool) {
	t.Helper()
	got, err := w.Request(kind, sector, data, in)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("request %d at sector %d with %d bytes: status %d, want %d", kind, sector, len(data), got, want)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// What is written is in the file and is read back, in requests of every size, by a confined worker.
func TestReadAndWrite(t *testing.T) {
	w := newWorld(t, options{process: true})
	for _, n := range []int{512, 4096, 4608, 1 << 20, size} {
		data, sector := random(n), uint64(size-n)/disk.SectorSize
		w.must(t, ok, out, sector, data, false)
		back := make([]byte, n)
		w.must(t, ok, in, sector, back, true)
		if !bytes.Equal(back, data) {
			t.Errorf("%d bytes come back otherwise than they were written", n)
		}
		file, err := os.ReadFile(w.path)
		if err != nil || !bytes.Equal(file[size-n:], data) {
			t.Errorf("%d bytes are not in the file: %v", n, err)
		}
	}
	w.must(t, ok, flush, 0, nil, false)
	if s := w.k.Stats(); s.Reads != 5 || s.Writes != 5 || s.Flushes != 1 || s.Errors != 0 || s.WrittenBytes < size {
		t.Errorf("%+v", s)
	}
}

// The driver is told the size and the limits, and that the cache is write-back: FLUSH without
// CONFIG_WCE.
func TestWhatIsOffered(t *testing.T) {
	w := newWorld(t, options{})
	b, err := w.Config(60)
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.LittleEndian.Uint64(b); n != size/disk.SectorSize {
		t.Errorf("capacity of %d sectors, want %d", n, size/disk.SectorSize)
	}
	for at, want := range map[int]uint32{8: 32 << 10, 12: 254, 20: 512, 36: 1 << 21, 40: 16, 48: 1 << 21, 52: 16} {
		if n := binary.LittleEndian.Uint32(b[at:]); n != want {
			t.Errorf("field at %d of the configuration: %d, want %d", at, n, want)
		}
	}
	const must = vhostuser.BlkFlush | vhostuser.BlkDiscard | vhostuser.BlkWriteZeroes | vhostuser.BlkSegMax
	if f := w.Features; f&must != must || f&(vhostuser.BlkConfigWCE|vhostuser.BlkReadOnly) != 0 {
		t.Errorf("features %#x", f)
	}
	id := make([]byte, 20)
	w.must(t, ok, getID, 0, id, true)
	if string(id) != "flash"+string(make([]byte, 15)) {
		t.Errorf("serial number %q", id)
	}
}

// Requests that leave the disk, in either direction and by overflow, are refused, and so are those
// of unknown type. The disk goes on.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t, options{})
	last := uint64(size/disk.SectorSize) - 1
	for _, c := range []struct {
		what   string
		kind   uint32
		sector uint64
		n      int
		in     bool
		want   byte
	}{
		{"the last sector", in, last, 512, true, ok},
		{"one behind the last", in, last + 1, 512, true, ioErr},
		{"across the end", out, last, 1024, false, ioErr},
		{"sector that wraps", out, 1 << 55, 512, false, ioErr},
		{"largest sector", in, ^uint64(0), 512, true, ioErr},
		{"no sector of bytes", in, 0, 100, true, ioErr},
		{"unknown type", 99, 0, 512, true, unsupp},
		{"legacy SCSI", 2, 0, 512, true, unsupp},
		{"discard without ranges", discard, 0, 0, false, ioErr},
		{"discard with half a range", discard, 0, 24, false, ioErr},
		{"discard with too many ranges", discard, 0, 17 * 16, false, ioErr},
	} {
		t.Run(c.what, func(t *testing.T) { w.must(t, c.want, c.kind, c.sector, make([]byte, c.n), c.in) })
	}
	for what, r := range map[string]struct {
		kind    uint32
		sector  uint64
		sectors uint32
		flags   uint32
		want    byte
	}{
		"discard across the end":     {discard, last, 2, 0, ioErr},
		"discard that wraps":         {discard, ^uint64(0), 2, 0, ioErr},
		"discard of all of 32 bits":  {discard, 0, ^uint32(0), 0, ioErr},
		"discard with unmap":         {discard, 0, 8, 1, unsupp},
		"zeroes with unknown flags":  {zeroes, 0, 8, 2, unsupp},
		"zeroes across the end":      {zeroes, last, 2, 1, ioErr},
		"zeroes of nothing":          {zeroes, 0, 0, 0, ok},
		"zeroes of the last sector":  {zeroes, last, 1, 0, ok},
		"discard of the last sector": {discard, last, 1, 0, ok},
	} {
		t.Run(what, func(t *testing.T) {
			w.must(t, r.want, r.kind, 0, span(r.sector, r.sectors, r.flags), false)
		})
	}
}

func span(sector uint64, sectors, flags uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, sector)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, sectors), flags)
}

// Chains that are no request come back unused. Borders of segments have no meaning. The status may
// overlap anything of the card's.
func TestHostileChains(t *testing.T) {
	w := newWorld(t, options{})
	at := func(off uint64, n uint32, flags uint16) fakecard.Desc {
		return fakecard.Desc{Addr: fakecard.GuestBase + off, Len: n, Flags: flags}
	}
	const wr = fakecard.Write
	data := uint64(disktest.DataAt)
	head := w.Head(in, 0)
	head1, head2 := head, head
	head1.Len, head2.Addr, head2.Len = 7, head.Addr+7, 9
	long := []fakecard.Desc{head}
	for range disktest.Entries - 1 {
		long = append(long, at(data, 128<<10, wr))
	}
	for _, c := range []struct {
		what  string
		chain []fakecard.Desc
		n     int // bytes that the device writes
	}{
		{"header in pieces, data and status in one", []fakecard.Desc{head1, head2, at(data, 513, wr)}, 513},
		{"status over the header", []fakecard.Desc{head, at(data, 512, wr), {Addr: head.Addr, Len: 1, Flags: wr}}, 513},
		{"status over the data", []fakecard.Desc{head, at(data, 512, wr), at(data, 1, wr)}, 513},
		{"no status", []fakecard.Desc{head}, 0},
		{"short header", []fakecard.Desc{head1, w.Tail()}, 0},
		{"nothing to read", []fakecard.Desc{w.Tail()}, 0},
		{"data to read behind data to write", []fakecard.Desc{head, w.Tail(), at(data, 512, 0)}, 0},
		{"outside of memory", []fakecard.Desc{head, at(1<<40, 512, wr), w.Tail()}, 0},
		{"wraps", []fakecard.Desc{head, {Addr: ^uint64(0) - 100, Len: 512, Flags: wr}, w.Tail()}, 0},
		{"16 MiB", long, 0},
		{"4 GiB", []fakecard.Desc{head, at(data, ^uint32(0), wr), w.Tail()}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			w.Head(in, 0)
			w.Put(c.chain...)
			n, err := w.Wait()
			if err != nil || n != c.n {
				t.Errorf("%d bytes, want %d, %v", n, c.n, err)
			}
		})
	}
	w.must(t, ok, in, 0, make([]byte, 4096), true)
}

// A read-only disk says so and refuses what would change it.
func TestReadOnly(t *testing.T) {
	w := newWorld(t, options{readOnly: true, process: true})
	if w.Features&vhostuser.BlkReadOnly == 0 || w.Features&vhostuser.BlkDiscard != 0 {
		t.Errorf("features %#x", w.Features)
	}
	before, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.must(t, ioErr, out, 0, random(4096), false)
	w.must(t, ioErr, discard, 0, span(0, 8, 0), false)
	w.must(t, ioErr, zeroes, 0, span(0, 8, 1), false)
	w.must(t, ok, flush, 0, nil, false)
	back := make([]byte, 4096)
	w.must(t, ok, in, 0, back, true)
	after, err := os.ReadFile(w.path)
	if err != nil || !bytes.Equal(before, after) || !bytes.Equal(back, before[:4096]) {
		t.Errorf("the file has changed, or reads otherwise: %v", err)
	}
}

// Discard and write zeroes free the file's blocks, and what was there reads as zeroes.
func TestDiscard(t *testing.T) {
	w := newWorld(t, options{process: true})
	used := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(w.path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := used()
	w.must(t, ok, discard, 0, append(span(0, 2048, 0), span(4096, 2048, 0)...), false)
	w.must(t, ok, zeroes, 0, span(2048, 1024, 1), false)
	w.must(t, ok, zeroes, 0, span(3072, 512, 0), false)
	if freed := before - used(); freed < 2<<20 {
		t.Errorf("%d bytes were freed, want 2.5 MiB at least", freed)
	}
	file, err := os.ReadFile(w.path)
	if err != nil || len(file) != size {
		t.Fatalf("%d bytes, %v", len(file), err)
	}
	for _, r := range [][2]int{{0, 3584}, {4096, 6144}} {
		if !bytes.Equal(file[r[0]*512:r[1]*512], make([]byte, (r[1]-r[0])*512)) {
			t.Errorf("sectors %d to %d are not zero", r[0], r[1])
		}
	}
	if file[3584*512+512] != byte(3585%256) {
		t.Error("a sector behind the range was changed")
	}
}

// A file that fails makes requests fail, is reported once, and after a failed flush nothing is
// accepted that could be taken for stored.
func TestFailingFile(t *testing.T) {
	bad := &failing{}
	w := newWorld(t, options{wrap: func(f disk.File) disk.File { bad.File = f; return bad }})
	bad.set(unix.ENOSPC, nil)
	w.must(t, ioErr, out, 0, random(512), false)
	w.must(t, ioErr, out, 0, random(512), false)
	bad.set(nil, nil)
	w.must(t, ok, out, 0, random(512), false)
	bad.set(nil, unix.EIO)
	w.must(t, ioErr, flush, 0, nil, false)
	bad.set(nil, nil)
	w.must(t, ioErr, flush, 0, nil, false)
	w.must(t, ioErr, out, 0, random(512), false)
	w.must(t, ok, in, 0, random(512), true)
	if s := w.k.Stats(); s.Errors != 5 || s.Lost != 1 {
		t.Errorf("%+v", s)
	}
	for end := time.Now().Add(5 * time.Second); !strings.Contains(w.reported(), "no space left"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no event tells of ENOSPC: %q", w.reported())
		}
	}
	if n := strings.Count(w.reported(), "\n"); n > 0 {
		t.Errorf("%d more events: %q", n, w.reported())
	}
}

type failing struct {
	disk.File
	mu          sync.Mutex
	write, sync error
}

func (f *failing) set(write, sync error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write, f.sync = write, sync
}

func (f *failing) WriteV(iov []unix.Iovec, offset int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.write != nil {
		return f.write
	}
	return f.File.WriteV(iov, offset)
}

func (f *failing) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sync != nil {
		return f.sync
	}
	return f.File.Sync()
}

// A driver that does not accept FLUSH gets each write flushed.
func TestWriteThrough(t *testing.T) {
	w := newWorld(t, options{refuse: vhostuser.BlkFlush})
	w.must(t, ok, out, 0, random(4096), false)
	if s := w.k.Stats(); s.Flushes != 1 {
		t.Errorf("%d flushes after a write, want 1", s.Flushes)
	}
}

// The worker is killed repeatedly while the driver writes. Every request completes without an error,
// and the file holds what was written.
func TestKilledWorker(t *testing.T) {
	w := newWorld(t, options{process: true})
	want, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { killed <- n }()
		for n < 8 { // more in ten seconds make the keeper pause
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
			}
			if pid := w.k.WorkerPID(); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
	}()
	var n int
	for done := false; !done; {
		length := 512 * (1 + rand.IntN(512))
		sector := rand.IntN((size - length) / 512)
		data := random(length)
		w.must(t, ok, out, uint64(sector), data, false)
		copy(want[sector*512:], data)
		back := make([]byte, 4096)
		sector = rand.IntN((size - len(back)) / 512)
		w.must(t, ok, in, uint64(sector), back, true)
		if !bytes.Equal(back, want[sector*512:sector*512+len(back)]) {
			t.Fatalf("sector %d reads otherwise than it was written", sector)
		}
		if rand.IntN(4) == 0 {
			w.must(t, ok, flush, 0, nil, false)
		}
		select {
		case n = <-killed:
			done = true
		default:
		}
		if t.Failed() {
			close(stop)
			<-killed
			return
		}
	}
	t.Logf("%d workers were killed: %s", n, w.reported())
	if got, err := os.ReadFile(w.path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other content than was written: %v", err)
	}
}

// A disk is opened once for writing. Many may read.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := disk.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	two, err := disk.Open(path, true)
	if err != nil {
		t.Fatalf("a second reader: %v", err)
	}
	if _, err := disk.Open(path, false); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("a writer beside readers: %v, want ErrInUse", err)
	}
	one.Close()
	two.Close()
	three, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer three.Close()
	for _, readOnly := range []bool{false, true} {
		if _, err := disk.Open(path, readOnly); !errors.Is(err, disk.ErrInUse) {
			t.Errorf("beside a writer: %v, want ErrInUse", err)
		}
	}
}

// A file that is no disk is refused, with a reason.
func TestNoDisk(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "odd")
	if err := os.WriteFile(odd, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{odd: "1000 bytes, want a multiple of 512", dir: "want a file or a block device"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = disk.NewKeeper(disk.Disk{Name: "flash", File: f}, disk.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error that contains %q", path, err, want)
		}
	}
}
