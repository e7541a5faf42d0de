// Package vring is the device side of virtio's split ring (virtio 1.2,
// section 2.7) over memory that a hostile driver writes.
//
// Every value in that memory is read once into a local, the local is checked,
// and only the local is used. The package does not allocate once a ring runs,
// and it never blocks.
package vring

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"sort"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Region is one piece of the card's memory.
type Region struct {
	Guest uint64 // first physical address on the card
	User  uint64 // first address in the front end's process; ring addresses are of this kind
	Size  uint64 // bytes
	Host  unsafe.Pointer
	unmap func() error
}

// Memory is the card's memory as a table of regions that do not overlap.
// It is immutable. A change of the table makes a new Memory.
type Memory struct {
	regions []Region // by guest address
}

// ErrAddress reports that a range is not wholly in the card's memory.
var ErrAddress = errors.New("address outside the card's memory")

// NewMemory makes a table of regions that are mapped already. It returns an
// error if a region is empty, wraps, or overlaps another.
func NewMemory(regions ...Region) (*Memory, error) {
	m := &Memory{regions: append([]Region(nil), regions...)}
	sort.Slice(m.regions, func(i, j int) bool { return m.regions[i].Guest < m.regions[j].Guest })
	for i, r := range m.regions {
		if r.Size == 0 || r.Guest+r.Size < r.Guest || r.User+r.Size < r.User {
			return nil, fmt.Errorf("memory region at %#x of %d bytes is empty or wraps", r.Guest, r.Size)
		}
		if i > 0 && m.regions[i-1].Guest+m.regions[i-1].Size > r.Guest {
			return nil, fmt.Errorf("memory region at %#x overlaps the one before it", r.Guest)
		}
	}
	return m, nil
}

// Map maps size bytes of the file fd from offset as the region at guest. The file
// must hold the whole region. Map accepts a file that could be truncated afterwards
// (no F_SEAL_SHRINK), since User-Mode Linux has no other kind. A copy of payload
// then gets EFAULT in readv and writev (or leaves a hole: a TUN's read does not report
// it). The pump's own access, to a ring or to the first bytes of a buffer, faults and
// ends the pump, not the host.
func Map(fd int, guest, user, size, offset uint64) (Region, error) {
	const most = 1 << 46
	if size == 0 || size > most || offset > most || guest+size < guest || user+size < user {
		return Region{}, fmt.Errorf("memory region at %#x: size %d, offset %d out of range", guest, size, offset)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Region{}, fmt.Errorf("memory region at %#x: fstat: %w", guest, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || uint64(st.Size) < offset+size {
		return Region{}, fmt.Errorf("memory region at %#x: %d bytes at offset %d of a file of %d bytes", guest, size, offset, st.Size)
	}
	// mmap wants a page-aligned offset; the region may start within a page.
	skew := offset % uint64(os.Getpagesize())
	if size > math.MaxInt-skew {
		return Region{}, fmt.Errorf("memory region at %#x: %d bytes, want at most %d: this program has addresses of %d bits",
			guest, size, math.MaxInt-skew, bits.UintSize)
	}
	b, err := unix.Mmap(fd, int64(offset-skew), int(size+skew), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return Region{}, fmt.Errorf("memory region at %#x: mmap of %d bytes: %w", guest, size, err)
	}
	return Region{Guest: guest, User: user, Size: size, Host: unsafe.Pointer(&b[skew]), unmap: func() error { return unix.Munmap(b) }}, nil
}

// Unmap unmaps the region. No ring may use it afterwards.
func (r Region) Unmap() error {
	if r.unmap == nil {
		return nil
	}
	return r.unmap()
}

// at finds the part of [guest, guest+size) that lies in the region of guest. It
// returns where that part is mapped and its length in bytes, never 0.
// The checks are subtractions, so nothing can wrap (CVE-2018-1059).
func (m *Memory) at(guest, size uint64) (unsafe.Pointer, uint64, bool) {
	for i := range m.regions {
		r := &m.regions[i]
		off := guest - r.Guest
		if guest < r.Guest || off >= r.Size {
			continue
		}
		return unsafe.Add(r.Host, off), min(size, r.Size-off), true
	}
	return nil, 0, false
}

// user finds a part of a ring: the whole of [addr, addr+size) in one region, by
// addresses of the front end's process.
func (m *Memory) user(addr, size uint64) (unsafe.Pointer, error) {
	for i := range m.regions {
		r := &m.regions[i]
		off := addr - r.User
		if addr >= r.User && size <= r.Size && off <= r.Size-size {
			return unsafe.Add(r.Host, off), nil
		}
	}
	return nil, fmt.Errorf("%w: %d bytes at %#x", ErrAddress, size, addr)
}
