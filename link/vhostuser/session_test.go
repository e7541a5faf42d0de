package vhostuser_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// device logs its calls.
type device struct {
	mu     sync.Mutex // guards log and refuse
	log    []string
	pairs  int
	refuse string // this call fails
}

func (d *device) note(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, s)
	if d.refuse != "" && strings.HasPrefix(s, d.refuse) {
		return errors.New("refused by the test")
	}
	return nil
}

// take returns the calls since the last take.
func (d *device) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	log := d.log
	d.log = nil
	return log
}

// refusing makes the calls that are noted with a prefix fail.
func (d *device) refusing(prefix string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = prefix
}

const features = vhostuser.Version1 | vhostuser.NetMAC | vhostuser.NetMTU | vhostuser.RingEventIdx

func (d *device) Features() uint64       { return features }
func (d *device) Shape() vhostuser.Shape { return vhostuser.NetShape(max(d.pairs, 1)) }
func (d *device) Config() []byte         { return []byte{2, 1, 2, 3, 4, 5, 1, 0, 1, 0, 0xff, 0xff} }
func (d *device) SetMTU(mtu uint64) error {
	return d.note("mtu %d", mtu)
}
func (d *device) SetFeatures(f uint64) error { return d.note("features %#x", f) }
func (d *device) SetMemory(table []vhostuser.Region) error {
	s := "memory"
	for _, r := range table {
		if _, err := r.File.Stat(); err != nil {
			return err
		}
		s += fmt.Sprintf(" %#x+%#x", r.Guest, r.Size)
	}
	return d.note("%s", s)
}
func (d *device) StartRing(i int, r vhostuser.Ring) error {
	err := d.note("start %d size %d base %d on %v call %v", i, r.Size, r.Base, r.Enabled, r.Call != nil)
	return err
}
func (d *device) StopRing(i int) (uint16, error) { return uint16(40 + i), d.note("stop %d", i) }
func (d *device) EnableRing(i int, on bool) error {
	return d.note("enable %d %v", i, on)
}
func (d *device) Reset() { d.note("reset") }

// talk is a conversation with a device.
type talk struct {
	*fakecard.Front
	t     testing.TB
	dev   *device
	ended chan error
	fds   int
	mem   *os.File
	event *os.File
}

func fds() int {
	n, _ := filepath.Glob("/proc/self/fd/*")
	return len(n)
}

func newTalk(t testing.TB, dev *device) *talk {
	t.Helper()
	return newTalkWith(t, dev, dev)
}

// newTalkWith is newTalk where another device serves, on top of dev.
func newTalkWith(t testing.TB, serves vhostuser.Device, dev *device) *talk {
	t.Helper()
	k := &talk{t: t, dev: dev, ended: make(chan error, 1)}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := conn(t, pair[0]), conn(t, pair[1])
	k.Front = &fakecard.Front{Conn: ours, Timeout: 2 * time.Second}
	m, _ := unix.MemfdCreate("card", unix.MFD_CLOEXEC)
	k.mem = os.NewFile(uintptr(m), "card")
	k.mem.Truncate(1 << 20)
	e, _ := unix.Eventfd(0, unix.EFD_CLOEXEC)
	k.event = os.NewFile(uintptr(e), "event")
	k.fds = fds()
	go func() {
		k.ended <- vhostuser.Serve(theirs, serves)
		theirs.Close()
	}()
	return k
}

func conn(t testing.TB, fd int) *net.UnixConn {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// end hangs up if the peer has not, and returns how the conversation
// ended. It fails if a descriptor is left behind (CVE-2019-14818,
// CVE-2022-0669) or the device is not reset.
func (k *talk) end() (err error) {
	k.t.Helper()
	k.Conn.CloseWrite()
	select {
	case err = <-k.ended:
	case <-time.After(3 * time.Second):
		k.t.Fatal("the conversation goes on after the front end hung up")
	}
	k.Conn.Close()
	want := k.fds - 2 // both ends of the socket
	for deadline := time.Now().Add(time.Second); fds() > want && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := fds(); n > want {
		k.t.Errorf("%d descriptors left behind", n-want)
	}
	k.mem.Close()
	k.event.Close()
	if log := k.dev.take(); len(log) == 0 || log[len(log)-1] != "reset" {
		k.t.Errorf("the device was not reset: %q", log)
	}
	return err
}

func (k *talk) ok(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// acks enables REPLY_ACK.
func (k *talk) acks() {
	k.t.Helper()
	v, err := k.Get(vhostuser.GetProtocolFeatures)
	k.ok(err)
	k.ok(k.Do(vhostuser.SetProtocolFeatures, fakecard.U64(v)))
	k.Ack = true
}

func (k *talk) want(log ...string) {
	k.t.Helper()
	k.Get(vhostuser.GetFeatures) // everything before it has been done
	if got := strings.Join(k.dev.take(), "\n"); got != strings.Join(log, "\n") {
		k.t.Fatalf("the device was told\n%s\nwant\n%s", got, strings.Join(log, "\n"))
	}
}

func regions(v ...uint64) []byte {
	b := fakecard.U32(uint32(len(v)/2), 0)
	for i := 0; i < len(v); i += 2 {
		b = append(b, fakecard.U64(v[i], v[i+1], v[i]+1<<40, 0)...)
	}
	return b
}

func slot(guest, size uint64) []byte {
	return append(fakecard.U64(0), fakecard.U64(guest, size, guest+1<<40, 0)...)
}

// ring says all of a ring but its kick.
func (k *talk) ring(i uint32) {
	k.t.Helper()
	k.ok(k.Do(vhostuser.SetVringNum, fakecard.U32(i, 256)))
	k.ok(k.Do(vhostuser.SetVringBase, fakecard.U32(i, 7)))
	k.ok(k.Do(vhostuser.SetVringAddr, append(fakecard.U32(i, 0), fakecard.U64(0x1000, 0x3000, 0x2000, 0)...)))
}

const enabled = features | vhostuser.ProtocolFeature

// Every request as a front end sends it, in User-Mode Linux's order.
func TestEveryRequest(t *testing.T) {
	k := newTalk(t, &device{})
	k.ok(k.Do(vhostuser.SetOwner, nil))
	for r, want := range map[vhostuser.Request]uint64{
		vhostuser.GetFeatures: enabled, vhostuser.GetQueueNum: 1, vhostuser.GetMaxMemSlots: 64, vhostuser.GetStatus: 0,
	} {
		if v, err := k.Get(r); err != nil || v != want {
			t.Fatalf("request %d: %#x, %v; want %#x", r, v, err, want)
		}
	}
	v, err := k.Get(vhostuser.GetProtocolFeatures)
	if err != nil || v&(1<<3) == 0 || v&(1<<9) == 0 || v&(1<<14) != 0 || v&(1<<12) != 0 || v&1 != 0 {
		t.Fatalf("protocol features %#x, %v", v, err)
	}
	k.acks()
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled)))
	k.ok(k.Do(vhostuser.SetMemTable, regions(0, 1<<20), k.mem))
	k.ring(0)
	k.ok(k.Do(vhostuser.SetVringErr, fakecard.U64(0), k.event))
	k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(0), k.event))
	k.ok(k.Do(vhostuser.SetVringCall, fakecard.U64(0), k.event))
	k.ok(k.Do(vhostuser.SetVringEnable, fakecard.U32(0, 1)))
	k.ok(k.Do(vhostuser.SetVringCall, fakecard.U64(0x100)))
	k.ok(k.Do(vhostuser.NetSetMTU, fakecard.U64(65535)))
	k.ok(k.Do(vhostuser.SendRARP, fakecard.U64(0)))
	k.ok(k.Do(vhostuser.SetConfig, fakecard.U32(0, 0, 0)))
	k.ok(k.Do(vhostuser.SetStatus, fakecard.U64(15)))
	if v, err := k.Get(vhostuser.GetStatus); v != 15 || err != nil {
		t.Fatalf("status %d, %v", v, err)
	}
	k.want("features 0x160000028", "memory 0x0+0x100000",
		"start 0 size 256 base 7 on false call false", "start 0 size 256 base 7 on false call true",
		"enable 0 true", "start 0 size 256 base 7 on true call false", "mtu 65535")
	b, err := k.Ask(vhostuser.GetVringBase, fakecard.U32(0, 0))
	if err != nil || !bytes.Equal(b, fakecard.U32(0, 40)) {
		t.Fatalf("base % x, %v", b, err)
	}
	// The ring restarts at its old position.
	k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(0), k.event))
	k.want("stop 0", "start 0 size 256 base 40 on true call false")
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// Configuration space as User-Mode Linux asks: offset and size in the first
// words, the window behind them.
func TestGetConfig(t *testing.T) {
	k := newTalk(t, &device{})
	for _, c := range []struct {
		offset, size uint32
		want         []byte
	}{
		{0, 6, []byte{2, 1, 2, 3, 4, 5}},
		{10, 2, []byte{0xff, 0xff}},
		{6, 2, []byte{1, 0}},
		{0, 0, nil},
		{8, 8, []byte{1, 0, 0xff, 0xff, 0, 0, 0, 0}},
		{200, 4, make([]byte, 4)},
		{0, 256, append((&device{}).Config(), make([]byte, 244)...)},
	} {
		b, err := k.Ask(vhostuser.GetConfig, append(fakecard.U32(c.offset, c.size, 0), make([]byte, c.size)...))
		if err != nil || !bytes.Equal(b, append(fakecard.U32(c.offset, c.size, 0), c.want...)) {
			t.Errorf("%d bytes at %d: % x, %v", c.size, c.offset, b, err)
		}
	}
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// QEMU's order: SET_VRING_ENABLE several times before SET_FEATURES, and the
// protocol negotiation once more for each further pair.
func TestOrderOfQEMU(t *testing.T) {
	k := newTalk(t, &device{pairs: 2})
	for range 2 {
		k.Ack = false
		k.acks()
		for i := range uint32(4) {
			k.ok(k.Tell(vhostuser.SetVringEnable, 0, fakecard.U32(i, i/2^1)))
		}
	}
	k.want()
	k.Ack = false
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled)))
	k.ok(k.Do(vhostuser.SetMemTable, regions(0, 0xa0000, 0xc0000, 0x40000), k.mem, k.mem))
	for i := range uint32(2) {
		k.ring(i)
		k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(uint64(i)), k.event))
	}
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled))) // the same while rings run stops nothing
	k.want("features 0x160000028", "memory 0x0+0xa0000 0xc0000+0x40000",
		"start 0 size 256 base 7 on true call false", "start 1 size 256 base 7 on true call false")
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled&^vhostuser.NetMTU)))
	k.want("stop 0", "stop 1", "features 0x160000020")
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// Without protocol features a ring is on from its start.
func TestOldFrontEnd(t *testing.T) {
	k := newTalk(t, &device{})
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(vhostuser.Version1)))
	k.ok(k.Do(vhostuser.SetMemTable, regions(0, 1<<20), k.mem))
	k.ring(1)
	k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(1), k.event))
	k.want("features 0x100000000", "memory 0x0+0x100000", "start 1 size 256 base 7 on true call false")
	k.ok(k.Do(vhostuser.ResetOwner, nil))
	k.want("stop 1")
	k.end()
}

func TestMemorySlots(t *testing.T) {
	k := newTalk(t, &device{})
	k.acks()
	k.ok(k.Do(vhostuser.AddMemReg, slot(0, 0x1000), k.mem))
	k.ok(k.Do(vhostuser.AddMemReg, slot(0x10000, 0x1000), k.mem))
	k.ok(k.Do(vhostuser.RemMemReg, slot(0, 0x1000)))
	k.ok(k.Do(vhostuser.RemMemReg, slot(0x10000, 0x1000), k.mem)) // with a descriptor, as some do
	k.want("memory 0x0+0x1000", "memory 0x0+0x1000 0x10000+0x1000", "memory 0x10000+0x1000", "memory")
	if err := k.Do(vhostuser.RemMemReg, slot(0, 0x1000)); err == nil {
		t.Error("a region that is not there was taken out")
	}
	for i := range uint64(64) {
		k.ok(k.Do(vhostuser.AddMemReg, slot(i<<20, 0x1000), k.mem))
	}
	if err := k.Do(vhostuser.AddMemReg, slot(100<<20, 0x1000), k.mem); err == nil {
		t.Error("a 65th slot was given")
	}
	k.dev.refusing("memory")
	if err := k.Do(vhostuser.SetMemTable, regions(0, 4096), k.mem); err == nil {
		t.Error("the device's refusal was not told")
	}
	k.dev.refusing("")
	k.ok(k.Do(vhostuser.SetMemTable, regions(0, 4096), k.mem)) // the table before is closed
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// Reset by request or by the driver (status 0) stops rings and keeps memory.
func TestReset(t *testing.T) {
	for name, reset := range map[string]func(*talk) error{
		"RESET_DEVICE": func(k *talk) error { return k.Do(vhostuser.ResetDevice, nil) },
		"status 0":     func(k *talk) error { return k.Do(vhostuser.SetStatus, fakecard.U64(0)) },
	} {
		k := newTalk(t, &device{})
		k.acks()
		k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled)))
		k.ok(k.Do(vhostuser.SetMemTable, regions(0, 1<<20), k.mem))
		k.ring(0)
		k.ok(k.Do(vhostuser.SetVringEnable, fakecard.U32(0, 1)))
		k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(0), k.event))
		k.Get(vhostuser.GetFeatures)
		k.dev.take()
		k.ok(reset(k))
		k.want("stop 0")
		k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(0), k.event))
		k.want("start 0 size 256 base 0 on false call false")
		if err := k.end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// Unknown requests are ignored, or refused if they want a reply. They do not end
// the conversation. Descriptors with a request that takes none are closed.
func TestUnknown(t *testing.T) {
	k := newTalk(t, &device{})
	k.acks()
	k.Ack = false
	k.ok(k.Tell(99, 0, fakecard.U64(1), k.mem, k.event))
	k.ok(k.Tell(99, 8, fakecard.U64(1), k.mem))
	if b, err := k.Reply(99); err != nil || !bytes.Equal(b, fakecard.U64(1)) {
		t.Fatalf("reply % x, %v; want 1", b, err)
	}
	k.ok(k.Tell(vhostuser.SetOwner, 0, nil, k.mem, k.mem, k.event, k.event, k.mem, k.mem, k.mem, k.mem))
	if _, err := k.Ask(vhostuser.GetFeatures, nil, k.mem); err != nil {
		t.Fatal(err)
	}
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// QEMU 7.2 adds and removes a slot once for each queue pair.
func TestSlotOncePerPair(t *testing.T) {
	k := newTalk(t, &device{})
	k.acks()
	for range 3 {
		k.ok(k.Do(vhostuser.AddMemReg, slot(0, 0x1000), k.mem))
	}
	for range 3 {
		k.ok(k.Do(vhostuser.RemMemReg, slot(0, 0x1000), k.mem))
	}
	if err := k.Do(vhostuser.RemMemReg, slot(0, 0x1000), k.mem); err == nil {
		t.Error("a slot was removed once more than it was added")
	}
	k.want("memory 0x0+0x1000", "memory")
	k.ok(k.Do(vhostuser.AddMemReg, slot(0, 0x1000), k.mem))
	other, err := os.CreateTemp(t.TempDir(), "other")
	if err != nil {
		t.Fatal(err)
	}
	k.dev.refusing("memory") // two files at one address are not one slot
	if err := k.Do(vhostuser.AddMemReg, slot(0, 0x1000), other); err == nil {
		t.Error("another file at the same address was taken for the same slot")
	}
	other.Close()
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// A message that breaks the protocol ends the conversation with an error, and
// all descriptors that came with it are closed.
func TestMalformed(t *testing.T) {
	u32, u64 := fakecard.U32, fakecard.U64
	many := func(k *talk, n int) (f []*os.File) {
		for range n {
			f = append(f, k.mem)
		}
		return f
	}
	for name, send := range map[string]func(k *talk) error{
		"version 0":         func(k *talk) error { return k.Raw(u32(1, 0, 0), k.mem) },
		"version 2":         func(k *talk) error { return k.Raw(u32(1, 2, 0), k.mem) },
		"a reply":           func(k *talk) error { return k.Raw(u32(1, 5, 0)) },
		"payload of 4 GiB":  func(k *talk) error { return k.Raw(u32(1, 1, 0xffffffff), k.mem) },
		"payload too long":  func(k *talk) error { return k.Raw(u32(1, 1, 4097)) },
		"cut in the header": func(k *talk) error { return k.Raw(u32(1, 1), k.mem) },
		"cut in the payload": func(k *talk) error {
			return k.Raw(u32(uint32(vhostuser.SetFeatures), 1, 8, 0), k.mem)
		},
		"cut behind the header": func(k *talk) error { return k.Raw(u32(uint32(vhostuser.SetFeatures), 1, 8), k.mem) },
		"nine descriptors":      func(k *talk) error { return k.Tell(vhostuser.SetMemTable, 0, regions(0, 4096), many(k, 9)...) },
		"250 descriptors":       func(k *talk) error { return k.Tell(vhostuser.SetOwner, 0, nil, many(k, 250)...) },
		"table of nothing":      func(k *talk) error { return k.Tell(vhostuser.SetMemTable, 0, u32(0, 0)) },
		"table of 9": func(k *talk) error {
			return k.Tell(vhostuser.SetMemTable, 0, regions(make([]uint64, 18)...), many(k, 8)...)
		},
		"table of 4 billion": func(k *talk) error { return k.Tell(vhostuser.SetMemTable, 0, u32(0xffffffff, 0), k.mem) },
		"table cut":          func(k *talk) error { return k.Tell(vhostuser.SetMemTable, 0, regions(0, 4096)[:39], k.mem) },
		"table, descriptor too many": func(k *talk) error {
			return k.Tell(vhostuser.SetMemTable, 0, regions(0, 4096), k.mem, k.event)
		},
		"table without descriptor": func(k *talk) error { return k.Tell(vhostuser.SetMemTable, 0, regions(0, 4096)) },
		"slot without descriptor":  func(k *talk) error { return k.Tell(vhostuser.AddMemReg, 0, slot(0, 4096)) },
		"slot with two":            func(k *talk) error { return k.Tell(vhostuser.AddMemReg, 0, slot(0, 4096), k.mem, k.mem) },
		"slot cut":                 func(k *talk) error { return k.Tell(vhostuser.RemMemReg, 0, slot(0, 4096)[:39], k.mem) },
		"features cut":             func(k *talk) error { return k.Tell(vhostuser.SetFeatures, 0, u32(1)) },
		"features not offered":     func(k *talk) error { return k.Tell(vhostuser.SetFeatures, 0, u64(1<<34)) },
		"in-band notifications":    func(k *talk) error { return k.Tell(vhostuser.SetProtocolFeatures, 0, u64(1<<14)) },
		"ring 2 of 2":              func(k *talk) error { return k.Tell(vhostuser.SetVringNum, 0, u32(2, 256)) },
		"ring 4 billion":           func(k *talk) error { return k.Tell(vhostuser.GetVringBase, 0, u32(0xffffffff, 0)) },
		"ring state cut":           func(k *talk) error { return k.Tell(vhostuser.SetVringBase, 0, u32(0)) },
		"ring size 0":              func(k *talk) error { return k.Tell(vhostuser.SetVringNum, 0, u32(0, 0)) },
		"ring size 100":            func(k *talk) error { return k.Tell(vhostuser.SetVringNum, 0, u32(0, 100)) },
		"ring size 65536":          func(k *talk) error { return k.Tell(vhostuser.SetVringNum, 0, u32(0, 65536)) },
		"ring address cut":         func(k *talk) error { return k.Tell(vhostuser.SetVringAddr, 0, u32(0, 0, 1, 1)) },
		"ring address of ring 9":   func(k *talk) error { return k.Tell(vhostuser.SetVringAddr, 0, append(u32(9, 0), u64(0, 0, 0, 0)...)) },
		"kick without descriptor":  func(k *talk) error { return k.Tell(vhostuser.SetVringKick, 0, u64(0)) },
		"kick by polling":          func(k *talk) error { return k.Tell(vhostuser.SetVringKick, 0, u64(0x100)) },
		"call, flag and descriptor": func(k *talk) error {
			return k.Tell(vhostuser.SetVringCall, 0, u64(0x100), k.event)
		},
		"kick of a file":   func(k *talk) error { return k.Tell(vhostuser.SetVringKick, 0, u64(0), k.mem) },
		"call of a file":   func(k *talk) error { return k.Tell(vhostuser.SetVringCall, 0, u64(0), k.mem) },
		"error of a file":  func(k *talk) error { return k.Tell(vhostuser.SetVringErr, 0, u64(0), k.mem) },
		"kick of ring 255": func(k *talk) error { return k.Tell(vhostuser.SetVringKick, 0, u64(0xff), k.event) },
		"start without size or address": func(k *talk) error {
			return k.Tell(vhostuser.SetVringKick, 0, u64(0), k.event)
		},
		"size while it runs (CVE-2026-86565)": func(k *talk) error {
			k.ring(0)
			k.ok(k.Do(vhostuser.SetVringKick, u64(0), k.event))
			return k.Tell(vhostuser.SetVringNum, 0, u32(0, 1024))
		},
		"base while it runs": func(k *talk) error {
			k.ring(0)
			k.ok(k.Do(vhostuser.SetVringKick, u64(0), k.event))
			return k.Tell(vhostuser.SetVringBase, 0, u32(0, 9))
		},
		"address moves while it runs": func(k *talk) error {
			k.ring(0)
			k.ok(k.Do(vhostuser.SetVringKick, u64(0), k.event))
			return k.Tell(vhostuser.SetVringAddr, 0, append(u32(0, 0), u64(0x1000, 0x3000, 0x2002, 0)...))
		},
		"configuration behind the end": func(k *talk) error { return k.Tell(vhostuser.GetConfig, 0, append(u32(257, 0), u32(0)...)) },
		"configuration size":           func(k *talk) error { return k.Tell(vhostuser.GetConfig, 0, u32(0, 8, 0)) },
		"configuration cut":            func(k *talk) error { return k.Tell(vhostuser.GetConfig, 0, u32(0, 0)) },
		"the device refuses, nobody asks": func(k *talk) error {
			k.dev.refusing("mtu")
			return k.Tell(vhostuser.NetSetMTU, 0, u64(9999))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTalk(t, &device{})
			k.ok(send(k))
			k.Conn.CloseWrite()
			if err := k.end(); err == nil {
				t.Error("the conversation ended without an error")
			}
		})
	}
}

// Malformed messages that ask for a reply also end the conversation.
func TestMalformedWithAck(t *testing.T) {
	k := newTalk(t, &device{})
	k.acks()
	if err := k.Do(vhostuser.SetVringNum, fakecard.U32(0, 3)); err == nil {
		t.Error("acknowledged")
	}
	if err := k.end(); !errors.Is(err, vhostuser.ErrMessage) {
		t.Errorf("%v, want ErrMessage", err)
	}
}

// A message may come in pieces.
func TestInPieces(t *testing.T) {
	k := newTalk(t, &device{})
	b := append(fakecard.U32(uint32(vhostuser.SetMemTable), 1, 40), regions(0, 4096)...)
	for i := range b {
		if i == 0 {
			k.ok(k.Raw(b[:1], k.mem))
			continue
		}
		k.ok(k.Raw(b[i : i+1]))
	}
	k.want("memory 0x0+0x1000")
	if err := k.end(); err != nil {
		t.Fatal(err)
	}
}

// FuzzSession: any stream of bytes, with descriptors beside every message that
// the fuzzer wants: it ends, leaks nothing, and leaves the device reset.
func FuzzSession(f *testing.F) {
	msg := func(r vhostuser.Request, payload []byte) []byte {
		return append(fakecard.U32(uint32(r), 1, uint32(len(payload))), payload...)
	}
	addr := append(fakecard.U32(0, 0), fakecard.U64(0x1000, 0x3000, 0x2000, 0)...)
	f.Add(bytes.Join([][]byte{msg(vhostuser.SetOwner, nil), msg(vhostuser.GetFeatures, nil), msg(vhostuser.SetFeatures, fakecard.U64(enabled))}, nil), []byte{})
	f.Add(bytes.Join([][]byte{msg(vhostuser.SetMemTable, regions(0, 4096)), msg(vhostuser.RemMemReg, slot(0, 4096))}, nil), []byte{1})
	f.Add(bytes.Join([][]byte{msg(vhostuser.SetVringNum, fakecard.U32(0, 8)), msg(vhostuser.SetVringAddr, addr), msg(vhostuser.SetVringKick, fakecard.U64(0)), msg(vhostuser.GetVringBase, fakecard.U32(0, 0))}, nil), []byte{0, 0, 1})
	f.Add(bytes.Join([][]byte{msg(vhostuser.AddMemReg, slot(0, 4096)), msg(vhostuser.AddMemReg, slot(8192, 4096)), msg(vhostuser.SetMemTable, regions(0, 4096, 8192, 4096))}, nil), []byte{1, 1, 2})
	f.Add(msg(vhostuser.GetConfig, append(fakecard.U32(0, 12, 0), make([]byte, 12)...)), []byte{9})
	f.Fuzz(func(t *testing.T, stream, files []byte) {
		if len(stream) > 8192 {
			return
		}
		k := newTalk(t, &device{pairs: 2})
		go func() { // reads replies, so that the session does not block on them
			var b [4096]byte
			for {
				if _, err := k.Conn.Read(b[:]); err != nil {
					return
				}
			}
		}()
		for n := 0; len(stream) > 0; n++ {
			size := len(stream)
			if size >= 12 {
				size = min(size, 12+int(binary.NativeEndian.Uint32(stream[8:])&0x1fff))
			}
			var with []*os.File
			if n < len(files) {
				for i := range files[n] & 15 {
					with = append(with, []*os.File{k.mem, k.event}[i&1])
				}
			}
			if k.Raw(stream[:size], with...) != nil {
				break // it has hung up
			}
			stream = stream[size:]
		}
		k.end()
	})
}

// A request that the device refuses has no effect. The front end may repeat it, and later calls of
// the device do not assume it.
func TestRefusedIsNotDone(t *testing.T) {
	k := newTalk(t, &device{})
	k.acks()
	k.dev.refusing("features")
	if k.Do(vhostuser.SetFeatures, fakecard.U64(enabled)) == nil {
		t.Fatal("features that the device refuses were taken")
	}
	k.dev.refusing("")
	k.ok(k.Do(vhostuser.SetFeatures, fakecard.U64(enabled)))
	k.want("features 0x160000028", "features 0x160000028")
	k.ok(k.Do(vhostuser.SetMemTable, regions(0, 1<<20), k.mem))
	k.ring(1)
	k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(1), k.event))
	k.dev.refusing("enable")
	if k.Do(vhostuser.SetVringEnable, fakecard.U32(1, 1)) == nil {
		t.Fatal("a ring that the device refuses to enable was enabled")
	}
	k.dev.refusing("")
	k.ok(k.Do(vhostuser.SetVringCall, fakecard.U64(1), k.event))
	k.want("memory 0x0+0x100000", "start 1 size 256 base 7 on false call false", "enable 1 true",
		"start 1 size 256 base 7 on false call true")
	k.end()
}
