package vring

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// MaxSize is the most entries a ring may have, virtio 1.2 section 2.7.
const MaxSize = 32768

// Errors for a refused ring or chain. A broken ring stops, since it is unknown which heads the
// device owns. A bad chain is returned with length 0, and the ring goes on.
var (
	ErrBroken = errors.New("ring is broken")
	ErrChain  = errors.New("bad descriptor chain")
)

var (
	errJump  = fmt.Errorf("%w: the avail index is more than the ring ahead", ErrBroken)
	errHead  = fmt.Errorf("%w: head out of range", ErrBroken)
	errNext  = fmt.Errorf("%w: next out of range", ErrChain)
	errLoop  = fmt.Errorf("%w: longer than the ring", ErrChain)
	errBytes = fmt.Errorf("%w: more bytes than any packet or request needs", ErrChain)
	// ErrSegments is an ErrChain: more segments than the caller has room for.
	ErrSegments = fmt.Errorf("%w: more segments than one system call takes", ErrChain)
	errWay      = fmt.Errorf("%w: segment of the wrong direction", ErrChain)
	errIndirect = fmt.Errorf("%w: bad indirect table", ErrChain)
	errRange    = fmt.Errorf("%w: %w", ErrChain, ErrAddress)
)

// MaxChain bounds the bytes of one chain, unless Config.Most says otherwise. A receive buffer of
// virtio_net's big packets (17 pages and a header) fits.
const MaxChain = 256 << 10

// Config is the place and the mode of a ring.
type Config struct {
	Size              int    // entries, a power of two
	Desc, Avail, Used uint64 // addresses in the front end's process
	Base              int    // next avail index to take, or -1: continue from the used index in memory
	EventIdx          bool   // VIRTIO_F_EVENT_IDX was negotiated
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC was negotiated
	Write             bool   // the device writes into the buffers: a receive ring
	Both              bool   // segments to read, then segments to write: a ring for requests
	Most              int    // bytes of a chain; 0 means MaxChain
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
// Heads are always completed in the order they were taken. So the used index
// in memory is the complete state of a ring whose device died, and
// another device can continue from there.
type Ring struct {
	mem  *Memory
	cfg  Config
	mask uint16
	most int // bytes of a chain

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
	asked     uint16 // the driver's used_event at the last call
	flags     uint16 // our used flags
	seen      uint16 // avail index read last
	fence     uint32
	takenOver bool // the time of the last call is unknown
}

// New places a ring in memory. Addresses must be aligned as section 2.7 requires
// (16, 2 and 4 bytes), and each part must lie wholly in one region.
func New(mem *Memory, cfg Config) (*Ring, error) {
	n := uint64(cfg.Size)
	if cfg.Size < 1 || cfg.Size > MaxSize || n&(n-1) != 0 {
		return nil, fmt.Errorf("ring size %d: want a power of two up to %d", cfg.Size, MaxSize)
	}
	if cfg.Desc%16 != 0 || cfg.Avail%2 != 0 || cfg.Used%4 != 0 {
		return nil, fmt.Errorf("ring at desc %#x, avail %#x, used %#x: want alignment to 16, 2 and 4 bytes", cfg.Desc, cfg.Avail, cfg.Used)
	}
	r := &Ring{mem: mem, cfg: cfg, mask: uint16(n - 1), most: cmp.Or(cfg.Most, MaxChain)}
	if err := r.place(); err != nil {
		return nil, err
	}
	r.done = uint16(le.U32(atomic.LoadUint32((*uint32)(r.used))) >> 16)
	r.next = r.done
	if cfg.Base >= 0 {
		// The front end's base takes precedence: QEMU itself completes
		// queued heads when a back end goes away.
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

// Base is the next avail index that the next device must take. Heads that were
// taken and not completed are taken again.
func (r *Ring) Base() uint16 { return r.done }

// Size is the number of entries.
func (r *Ring) Size() int { return r.cfg.Size }

// Waiting returns the number of heads that the driver has made available and the
// device has not taken. It returns ErrBroken if the index leaves the ring
// (rust-vmm 196, Firecracker 3149).
func (r *Ring) Waiting() (int, error) {
	if r.seen == r.next {
		r.seen = r.availIdx()
	}
	n := r.seen - r.next
	// The check is against completed heads, not taken ones: a driver can
	// never have more heads in flight than the ring has entries.
	if int(r.seen-r.done) > r.cfg.Size {
		return 0, errJump
	}
	return int(n), nil
}

// availIdx reads the avail index with acquire semantics.
func (r *Ring) availIdx() uint16 { return load16(unsafe.Add(r.avail, 2)) }

// load16 reads a value that the driver writes, ordered with the device's atomic stores before it
// and its reads after it. On arm64 a plain read may overtake even an atomic addition (8.0 has no
// instruction for one). Go has no atomic access of 16 bits, so load16 reads the aligned word around
// the value. That word never leaves the page, and memory is mapped in pages.
func load16(p unsafe.Pointer) uint16 {
	odd := uintptr(p) % 4 // 0 or 2
	return uint16(le.U32(atomic.LoadUint32((*uint32)(unsafe.Add(p, -int(odd))))) >> (8 * odd))
}

// Take takes the next head and appends its segments to iov, which must have
// capacity. It returns the head, the extended iov, and the bytes of
// the chain. The caller first checks with Waiting that there is a head.
//
// After ErrChain the device owns the head: Complete it with length 0. After
// ErrBroken the device does not own it.
func (r *Ring) Take(iov []unix.Iovec) (head uint16, out []unix.Iovec, size int, err error) {
	head = le.U16(*(*uint16)(unsafe.Add(r.avail, 4+2*uintptr(r.next&r.mask))))
	if int(head) >= r.cfg.Size {
		return 0, iov, 0, errHead
	}
	r.next++
	n := len(iov)
	r.first = n
	out, size, err = r.chain(iov, r.desc, uint16(r.cfg.Size), head, true)
	if err != nil {
		return head, out[:n], 0, err
	}
	return head, out, size, nil
}

// Entries is the number of descriptors of the ring's own table in the chain that was taken last. An
// indirect table counts as one.
func (r *Ring) Entries() int { return int(r.entries) }

// Untake puts back the head that was taken last.
func (r *Ring) Untake() { r.next-- }

// chain walks one chain. table has limit entries, so no chain in it can be
// longer, and a loop ends at limit (CVE-2026-86847). Only the ring's own table may
// lead to an indirect one, also if the driver gives the ring's own table as
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
			// An indirect table may end a chain of plain descriptors, 2.7.5.3.2.
			out, more, err := r.indirect(iov, d)
			if err == nil && size+more > r.most {
				err = errBytes
			}
			return out, size + more, err
		}
		if write := d.flags&descWrite != 0; write != r.cfg.Write && !(r.cfg.Both && r.turn(iov, write)) {
			return iov, 0, errWay
		}
		if uint64(d.len) > uint64(r.most) || size+int(d.len) > r.most {
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

// turn reports whether a segment of this direction may follow in a chain of Both. Segments to read
// and segments to write are not merged.
func (r *Ring) turn(iov []unix.Iovec, write bool) bool {
	if write && r.readable == len(iov) {
		r.first = len(iov)
	}
	return write || r.readable == len(iov)
}

// indirect walks an indirect table, virtio 1.2 section 2.7.5.3. The table
// must lie wholly in one region.
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

// segment appends [addr, addr+size), which may cross the border between two
// regions. It merges adjacent segments: the fewer there are, the less the kernel
// has to check.
func (r *Ring) segment(iov []unix.Iovec, addr, size uint64) ([]unix.Iovec, error) {
	for size > 0 {
		p, n, ok := r.mem.at(addr, size)
		if !ok {
			return iov, errRange
		}
		addr, size = addr+n, size-n
		if k := len(iov) - 1; k >= r.first && Adjoins(&iov[k], p) {
			iov[k].SetLen(int(iov[k].Len) + int(n)) // r.most at most
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

// Adjoins reports whether a segment ends at p.
func Adjoins(v *unix.Iovec, p unsafe.Pointer) bool {
	return unsafe.Add(unsafe.Pointer(v.Base), v.Len) == p
}

// Complete returns a head with the number of bytes written into it. The
// driver does not see it before Show.
func (r *Ring) Complete(head uint16, size int) {
	// Two stores: the entry is aligned to 4 bytes, and a store of 8 faults on mips64.
	e := unsafe.Add(r.used, 4+8*uintptr(r.done&r.mask))
	*(*uint32)(e) = le.U32(uint32(head))
	*(*uint32)(unsafe.Add(e, 4)) = le.U32(uint32(size))
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

// MustCall reports whether the driver wants a call for the heads shown since the
// last MustCall, virtio 1.2 section 2.7.7.
func (r *Ring) MustCall() bool {
	if r.called == r.shown {
		return false
	}
	old := r.called
	r.called = r.shown
	atomic.AddUint32(&r.fence, 1) // the used index must be visible before used_event is read
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

// usedEvent is the used index after which the driver wants a call.
func (r *Ring) usedEvent() uint16 {
	return load16(unsafe.Add(r.avail, 4+2*uintptr(r.cfg.Size)))
}

// Called records a call that MustCall did not request.
func (r *Ring) Called() {
	if r.cfg.EventIdx {
		r.asked = r.usedEvent()
	}
}

// Unanswered reports whether the driver seems not to have acted on the last call: used_event has
// not moved since and is behind the shown index. A driver that polls its ring moves used_event when
// it is done. One that does not need calls may leave it, so the result is only a suspicion. Without
// event indexes it is always false.
func (r *Ring) Unanswered() bool {
	if !r.cfg.EventIdx {
		return false
	}
	event := r.usedEvent()
	return event == r.asked && int16(r.shown-event) > 0
}

// WantKicks requests a kick with the next head that the driver makes available.
// It reports whether a head has arrived meanwhile, so that the caller does not
// sleep through it.
func (r *Ring) WantKicks() (more bool) {
	if r.cfg.EventIdx {
		// The driver kicks for the first head after the avail index
		// read last. avail_event is 16 bits wide and may be the last of
		// the region, hence a plain store and a fence.
		*(*uint16)(unsafe.Add(r.used, 4+8*uintptr(r.cfg.Size))) = le.U16(r.seen)
	} else {
		r.flags = 0
		r.show()
	}
	atomic.AddUint32(&r.fence, 1)
	return r.availIdx() != r.seen
}

// NoKicks disables kicks while the device polls. With event indexes it has no
// effect: an avail_event that is behind already suppresses them.
func (r *Ring) NoKicks() {
	if !r.cfg.EventIdx && r.flags&noNotify == 0 {
		r.flags = noNotify
		r.show()
	}
}

// Moved returns the ring in a new memory table, at the same position. Heads that
// were taken and not completed are taken again. Moved writes nothing.
func (r *Ring) Moved(mem *Memory) (*Ring, error) {
	n := *r
	n.mem = mem
	if err := n.place(); err != nil {
		return nil, err
	}
	n.next, n.seen = n.done, n.done
	return &n, nil
}
