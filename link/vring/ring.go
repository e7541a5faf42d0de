package vring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// MaxSize is the most entries a ring may have, virtio 1.2 section 2.7.
const MaxSize = 32768

// Why a ring or a chain is refused. A broken ring stops: which heads are the device's is no longer
// known. A bad chain is returned with length 0, and the ring goes on.
var (
	ErrBroken = errors.New("ring is broken")
	ErrChain  = errors.New("bad descriptor chain")
)

var (
	errJump  = fmt.Errorf("%w: the avail index is more than the ring ahead", ErrBroken)
	errHead  = fmt.Errorf("%w: head out of range", ErrBroken)
	errNext  = fmt.Errorf("%w: next out of range", ErrChain)
	errLoop  = fmt.Errorf("%w: longer than the ring", ErrChain)
	errBytes = fmt.Errorf("%w: more bytes than any packet needs", ErrChain)
	// ErrSegments is an ErrChain: more segments than the caller has room for.
	ErrSegments = fmt.Errorf("%w: more segments than one system call takes", ErrChain)
	errWay      = fmt.Errorf("%w: segment of the wrong direction", ErrChain)
	errIndirect = fmt.Errorf("%w: bad indirect table", ErrChain)
	errRange    = fmt.Errorf("%w: %w", ErrChain, ErrAddress)
)

// MaxChain bounds the bytes of one chain: a receive buffer of virtio_net's
// big packets (17 pages and a header) fits, and little more is ever needed.
const MaxChain = 256 << 10

// Config is where a ring is and how it runs.
type Config struct {
	Size              int    // entries, a power of two
	Desc, Avail, Used uint64 // addresses in the front end's process
	Base              int    // next avail index to take, or -1: go on from the used index in memory
	EventIdx          bool   // VIRTIO_F_EVENT_IDX was negotiated
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC was negotiated
	Write             bool   // the device writes into the buffers: a receive ring
	Both              bool   // first come segments to read, then some to write: a control ring
}

// descriptor is struct virtq_desc, virtio 1.2 section 2.7.5:
//
//	0                8        12       14     16
//	+----------------+--------+--------+------+
//	| addr           | len    | flags  | next |
//	+----------------+--------+--------+------+
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// swap converts between the ring's byte order and the host's.
func (d descriptor) swap() descriptor {
	return descriptor{le.U64(d.addr), le.U32(d.len), le.U16(d.flags), le.U16(d.next)}
}

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
	descLen      = 16
)

// Flags of the avail ring (driver) and the used ring (device).
const (
	noInterrupt = 1
	noNotify    = 1
)

// Ring is the device side of one split ring. One goroutine uses it.
//
// A head is completed in the order it was taken, always. So the used index
// in memory is the complete state of a ring whose device died, and
// another device can go on from there.
type Ring struct {
	mem  *Memory
	cfg  Config
	mask uint16

	desc  unsafe.Pointer
	avail unsafe.Pointer // flags, idx, ring[size], used_event
	used  unsafe.Pointer // flags, idx, ring[size] of (id, len), avail_event

	next      uint16 // next avail index to take
	done      uint16 // next used index to fill
	shown     uint16 // used index that the driver has been shown
	called    uint16 // used index at the last call decision
	first     int    // the chain's first segment
	readable  int    // segments before the first to be written, in a chain of Both
	entries   uint16 // descriptors of the ring's own table in the last chain
	asked     uint16 // the driver's used_event when it was called last
	flags     uint16 // our used flags
	seen      uint16 // avail index read last
	fence     uint32
	takenOver bool // when the driver was last called is unknown
}

// New places a ring in memory. Addresses must be aligned as section 2.7 asks
// (16, 2 and 4 bytes) and each part must lie whole in one region.
func New(mem *Memory, cfg Config) (*Ring, error) {
	n := uint64(cfg.Size)
	if cfg.Size < 1 || cfg.Size > MaxSize || n&(n-1) != 0 {
		return nil, fmt.Errorf("ring size %d: want a power of two up to %d", cfg.Size, MaxSize)
	}
	if cfg.Desc%16 != 0 || cfg.Avail%2 != 0 || cfg.Used%4 != 0 {
		return nil, fmt.Errorf("ring at desc %#x, avail %#x, used %#x: want alignment to 16, 2 and 4 bytes", cfg.Desc, cfg.Avail, cfg.Used)
	}
	r := &Ring{mem: mem, cfg: cfg, mask: uint16(n - 1)}
	if err := r.place(); err != nil {
		return nil, err
	}
	r.done = uint16(le.U32(atomic.LoadUint32((*uint32)(r.used))) >> 16)
	r.next = r.done
	if cfg.Base >= 0 {
		// The front end's word counts: QEMU completes what was queued
		// itself when a back end goes away.
		r.next, r.done = uint16(cfg.Base), uint16(cfg.Base)
		r.show()
	}
	r.seen, r.shown, r.called, r.takenOver = r.next, r.done, r.done, true
	return r, nil
}

// place finds the three parts in memory.
func (r *Ring) place() (err error) {
	n := uint64(r.cfg.Size)
	if r.desc, err = r.mem.user(r.cfg.Desc, n*descLen); err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	if r.avail, err = r.mem.user(r.cfg.Avail, 4+2*n+2); err != nil {
		return fmt.Errorf("avail ring: %w", err)
	}
	if r.used, err = r.mem.user(r.cfg.Used, 4+8*n+2); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	return nil
}

// Base is the next avail index that a device after this one has to take.
// What was taken and not completed is taken again.
func (r *Ring) Base() uint16 { return r.done }

// Size is the number of entries.
func (r *Ring) Size() int { return r.cfg.Size }

// Waiting says how many heads the driver has made available and we have not
// taken. The error is ErrBroken where the index leaves the ring
// (rust-vmm 196, Firecracker 3149).
func (r *Ring) Waiting() (int, error) {
	if r.seen == r.next {
		r.seen = r.availIdx()
	}
	n := r.seen - r.next
	// Against what we have completed, not taken: a driver can never have
	// more heads out than the ring has entries.
	if int(r.seen-r.done) > r.cfg.Size {
		return 0, errJump
	}
	return int(n), nil
}

// availIdx reads the avail index with acquire semantics.
func (r *Ring) availIdx() uint16 { return load16(unsafe.Add(r.avail, 2)) }

// load16 reads what the driver writes, in order with our atomic stores before
// it and our reads after it: on arm64 a plain read may overtake even an atomic
// addition (8.0 has no instruction for one). Go has no atomic access of 16
// bits, so the aligned word around it is read. That never leaves the page, and
// pages are what is mapped.
func load16(p unsafe.Pointer) uint16 {
	odd := uintptr(p) % 4 // 0 or 2
	return uint16(le.U32(atomic.LoadUint32((*uint32)(unsafe.Add(p, -int(odd))))) >> (8 * odd))
}

// Take takes the next head and appends its segments to iov, which must have
// capacity. It returns the head, iov with what was appended, and the bytes of
// the chain. Waiting must have said that there is one.
//
// After ErrChain the head is the device's: Complete it with length 0. After
// ErrBroken it is not.
func (r *Ring) Take(iov []unix.Iovec) (head uint16, out []unix.Iovec, size int, err error) {
	head = le.U16(*(*uint16)(unsafe.Add(r.avail, 4+2*uintptr(r.next&r.mask))))
	if int(head) >= r.cfg.Size {
		return 0, iov, 0, errHead
	}
	r.next++
	n := len(iov)
	r.first = n
	if r.cfg.Both {
		r.first = cap(iov) // what is read and what is written stay apart
	}
	out, size, err = r.chain(iov, r.desc, uint16(r.cfg.Size), head, true)
	if err != nil {
		return head, out[:n], 0, err
	}
	return head, out, size, nil
}

// Entries is how many descriptors of the ring's own table the chain has that was
// taken last: an indirect table counts as the one that leads to it.
func (r *Ring) Entries() int { return int(r.entries) }

// Untake puts the head that was taken last back.
func (r *Ring) Untake() { r.next-- }

// chain walks one chain. table has limit entries, so no chain of it can be
// longer; a loop ends there (CVE-2026-86847). Only the ring's own table may
// lead to an indirect one, also where a driver names the ring's own table as
// the indirect one.
func (r *Ring) chain(iov []unix.Iovec, table unsafe.Pointer, limit, i uint16, direct bool) ([]unix.Iovec, int, error) {
	size := 0
	for n := range limit {
		if direct {
			r.entries = n + 1
		}
		d := (*(*descriptor)(unsafe.Add(table, uintptr(i)*descLen))).swap() // one copy; only the copy is used
		if d.flags&descIndirect != 0 {
			if !direct || !r.cfg.Indirect || d.flags&descNext != 0 {
				return iov, 0, errIndirect
			}
			// It may end a chain of plain descriptors, 2.7.5.3.2.
			out, more, err := r.indirect(iov, d)
			if err == nil && size+more > MaxChain {
				err = errBytes
			}
			return out, size + more, err
		}
		if write := d.flags&descWrite != 0; write != r.cfg.Write && !(r.cfg.Both && (write || r.readable == len(iov))) {
			return iov, 0, errWay
		}
		if d.len > MaxChain || size+int(d.len) > MaxChain {
			return iov, 0, errBytes
		}
		var err error
		if iov, err = r.segment(iov, d.addr, uint64(d.len)); err != nil {
			return iov, 0, err
		}
		if r.cfg.Both && d.flags&descWrite == 0 {
			r.readable = len(iov)
		}
		size += int(d.len)
		if d.flags&descNext == 0 {
			return iov, size, nil
		}
		if i = d.next; i >= limit {
			return iov, 0, errNext
		}
	}
	return iov, 0, errLoop
}

// indirect walks a table of its own, virtio 1.2 section 2.7.5.3. The table
// must lie whole in one region.
func (r *Ring) indirect(iov []unix.Iovec, d descriptor) ([]unix.Iovec, int, error) {
	n := d.len / descLen
	if n == 0 || d.len%descLen != 0 || int(n) > r.cfg.Size {
		return iov, 0, errIndirect
	}
	table, have, ok := r.mem.at(d.addr, uint64(d.len))
	if !ok || have != uint64(d.len) {
		return iov, 0, errRange
	}
	return r.chain(iov, table, uint16(n), 0, false)
}

// segment appends [addr, addr+size), which may run over the seam between two
// regions. What goes on where the segment before it ends is one with it: the fewer
// there are, the less the kernel has to look at.
func (r *Ring) segment(iov []unix.Iovec, addr, size uint64) ([]unix.Iovec, error) {
	for size > 0 {
		p, n, ok := r.mem.at(addr, size)
		if !ok {
			return iov, errRange
		}
		addr, size = addr+n, size-n
		if k := len(iov) - 1; k >= r.first && Adjoins(&iov[k], p) {
			iov[k].SetLen(int(iov[k].Len) + int(n)) // MaxChain at most
			continue
		}
		if len(iov) == cap(iov) {
			return iov, ErrSegments
		}
		iov = append(iov, unix.Iovec{Base: (*byte)(p)})
		iov[len(iov)-1].SetLen(int(n))
	}
	return iov, nil
}

// Adjoins says whether p is where a segment ends.
func Adjoins(v *unix.Iovec, p unsafe.Pointer) bool {
	return unsafe.Add(unsafe.Pointer(v.Base), v.Len) == p
}

// Complete gives a head back with the bytes that were written into it. The
// driver does not see it before Show.
func (r *Ring) Complete(head uint16, size int) {
	e := unsafe.Add(r.used, 4+8*uintptr(r.done&r.mask))
	*(*uint64)(e) = le.U64(uint64(head) | uint64(size)<<32)
	r.done++
}

// Show makes everything completed visible to the driver.
func (r *Ring) Show() {
	if r.shown != r.done {
		r.show()
	}
}

func (r *Ring) show() {
	atomic.StoreUint32((*uint32)(r.used), le.U32(uint32(r.flags)|uint32(r.done)<<16))
	r.shown = r.done
}

// MustCall says whether the driver wants to be called for what has been shown
// since MustCall was asked last, virtio 1.2 section 2.7.7.
func (r *Ring) MustCall() bool {
	if r.called == r.shown {
		return false
	}
	old := r.called
	r.called = r.shown
	atomic.AddUint32(&r.fence, 1) // the index must be out before the wish is read
	if r.takenOver {
		r.takenOver = false
		r.Called()
		return true
	}
	if !r.cfg.EventIdx {
		return load16(r.avail)&noInterrupt == 0
	}
	event := r.usedEvent()
	if r.shown-event-1 >= r.shown-old {
		return false
	}
	r.asked = event
	return true
}

// usedEvent is the used index behind which the driver wants to be called.
func (r *Ring) usedEvent() uint16 {
	return load16(unsafe.Add(r.avail, 4+2*uintptr(r.cfg.Size)))
}

// Called notes that the driver is called without MustCall having said so.
func (r *Ring) Called() {
	if r.cfg.EventIdx {
		r.asked = r.usedEvent()
	}
}

// Unanswered says that the driver has not acted on the last call: used_event
// stands where it stood then, behind what is shown. A driver that looks at its
// ring moves it when it is done; one that has no more use for calls may leave
// it, so this is a suspicion. Without event indexes there is none.
func (r *Ring) Unanswered() bool {
	if !r.cfg.EventIdx {
		return false
	}
	event := r.usedEvent()
	return event == r.asked && int16(r.shown-event) > 0
}

// WantKicks asks the driver for a kick with the next head it makes available,
// and says whether one has come meanwhile, so that nothing is slept over.
func (r *Ring) WantKicks() (more bool) {
	if r.cfg.EventIdx {
		// Behind what we have looked at, the driver kicks. avail_event
		// is 16 bits wide and may be the last of the region, hence a
		// plain store and a fence.
		*(*uint16)(unsafe.Add(r.used, 4+8*uintptr(r.cfg.Size))) = le.U16(r.seen)
	} else {
		r.flags = 0
		r.show()
	}
	atomic.AddUint32(&r.fence, 1)
	return r.availIdx() != r.seen
}

// NoKicks tells the driver that we are awake and will look by ourselves. With
// event indexes there is nothing to do: an event that is behind says it.
func (r *Ring) NoKicks() {
	if !r.cfg.EventIdx && r.flags&noNotify == 0 {
		r.flags = noNotify
		r.show()
	}
}

// Moved is the ring in a new memory table, going on where this one is. What
// was taken and not completed is taken again. Nothing is written.
func (r *Ring) Moved(mem *Memory) (*Ring, error) {
	n := *r
	n.mem = mem
	if err := n.place(); err != nil {
		return nil, err
	}
	n.next, n.seen = n.done, n.done
	return &n, nil
}
