package vring

import (
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// Where the rig's memory is: guest and user addresses that must not be mixed.
const (
	guestBase = 0x4000_0000
	userBase  = 0x7f00_0000_0000
	memSize   = 1 << 20

	descAt   = 0x0
	availAt  = 0x4000
	usedAt   = 0x8000
	tableAt  = 0x10000 // room for indirect tables
	bufferAt = 0x20000
)

// rig is a driver that writes any value.
type rig struct {
	t    testing.TB
	mem  []byte
	m    *Memory
	r    *Ring
	cfg  Config
	next uint16
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	b, err := unix.Mmap(-1, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	g := &rig{t: t, mem: b}
	// The seam between two regions that follow each other, amid the buffers.
	const cut = bufferAt + 0x800
	g.m, err = NewMemory(
		Region{Guest: guestBase + cut, User: userBase + cut, Size: memSize - cut, Host: unsafe.Pointer(&b[cut])},
		Region{Guest: guestBase, User: userBase, Size: cut, Host: unsafe.Pointer(&b[0])})
	if err != nil {
		t.Fatal(err)
	}
	g.open(cfg)
	return g
}

func (g *rig) open(cfg Config) {
	g.t.Helper()
	if cfg.Size == 0 {
		cfg.Size = 8
	}
	cfg.Desc, cfg.Avail, cfg.Used = userBase+descAt, userBase+availAt, userBase+usedAt
	var err error
	if g.r, err = New(g.m, cfg); err != nil {
		g.t.Fatal(err)
	}
	g.cfg, g.next = cfg, g.r.next
	g.idx(g.next)
}

func (g *rig) put16(off int, v uint16) { *(*uint16)(unsafe.Pointer(&g.mem[off])) = le.U16(v) }
func (g *rig) get16(off int) uint16    { return le.U16(*(*uint16)(unsafe.Pointer(&g.mem[off]))) }
func (g *rig) get64(off int) uint64 {
	return le.U64(atomic.LoadUint64((*uint64)(unsafe.Pointer(&g.mem[off]))))
}
func (g *rig) idx(v uint16)       { g.put16(availAt+2, v) }
func (g *rig) flags(v uint16)     { g.put16(availAt, v) }
func (g *rig) usedEvent(v uint16) { g.put16(availAt+4+2*g.cfg.Size, v) }
func (g *rig) availEvent() uint16 { return g.get16(usedAt + 4 + 8*g.cfg.Size) }
func (g *rig) usedIdx() uint16    { return g.get16(usedAt + 2) }

// used is the entry that the device wrote for a used index.
func (g *rig) used(i uint16) (id, size uint32) {
	e := (*[2]uint32)(unsafe.Pointer(&g.mem[usedAt+4+8*int(i&uint16(g.cfg.Size-1))]))
	return le.U32(e[0]), le.U32(e[1])
}

func (g *rig) desc(off, i int, addr uint64, size uint32, flags, next uint16) {
	*(*descriptor)(unsafe.Pointer(&g.mem[off+16*i])) = descriptor{addr, size, flags, next}.swap()
}

// avail makes a head available.
func (g *rig) avail(head uint16) {
	g.put16(availAt+4+2*int(g.next&uint16(g.cfg.Size-1)), head)
	g.next++
	g.idx(g.next)
}

// inside fails where a segment is not wholly in the memory.
func (g *rig) inside(iov []unix.Iovec) {
	lo := uintptr(unsafe.Pointer(&g.mem[0]))
	for _, v := range iov {
		p := uintptr(unsafe.Pointer(v.Base))
		if p < lo || uint64(p-lo) > memSize || uint64(v.Len) > memSize-uint64(p-lo) {
			g.t.Fatalf("segment of %d bytes at %#x leaves the memory at %#x", v.Len, p, lo)
		}
	}
}
