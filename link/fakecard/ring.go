package fakecard

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// layout holds the places of the parts of a ring, as offsets in the card's memory.
type layout struct {
	desc, avail, used, tables, buffers uint64
	slots, segments                    int
	size, stride                       int // bytes of a buffer, and from one to the next
	indirect                           bool
	receive                            bool
}

func align(v uint64) uint64 { return (v + 4095) &^ 4095 }

// plan lays out a ring from an offset and returns the first offset behind it.
func plan(o Options, receive bool, at uint64) (layout, uint64) {
	n := uint64(o.Size)
	l := layout{segments: o.Segments, indirect: o.Indirect, receive: receive, slots: o.Size, size: o.Buffer}
	if !receive {
		l.size = o.SendBuffer
	}
	if !l.indirect {
		l.slots /= l.segments
	}
	l.stride = (l.size + 63) &^ 63
	l.desc = at
	l.avail = align(l.desc + 16*n)
	l.used = align(l.avail + 4 + 2*n + 2)
	l.tables = align(l.used + 4 + 8*n + 2)
	l.buffers = align(l.tables + 16*n*uint64(l.segments))
	return l, align(l.buffers + uint64(l.slots)*uint64(l.stride))
}

// Desc is a descriptor, virtio 1.2 section 2.7.5.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Descriptor flags.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Ring is the driver's side of one split ring. One goroutine uses it.
type Ring struct {
	card     *Card
	mem      []byte
	at       layout
	size     int
	index    int
	eventIdx bool
	timeout  time.Duration

	kick, call, err *os.File
	callEnd         *os.File // the end that the device writes to: call, or the pipe's other end

	next    uint16   // next avail index to fill
	shown   uint16   // avail index that is visible to the device
	kicked  uint16   // avail index at the last kick decision
	last    uint16   // next used index to read
	free    []uint16 // slots
	out     []uint16 // slots that the device has, in order; a ring buffer
	outAt   int
	outLen  int
	lengths []uint32 // of each slot's frame, as written in its descriptors
	fence   uint32
	poll    [1]unix.PollFd
	one     uint64
	count   [8]byte // of the call descriptor

	asleep atomic.Bool

	// Kicks and Calls count.
	Kicks, Calls uint64
	// Lose is the number of calls that the driver will still sleep through.
	Lose int
}

func newRing(c *Card, i int, at layout) (*Ring, error) {
	r := &Ring{card: c, mem: c.memory.b, at: at, size: c.opts.Size, index: i, timeout: c.opts.Timeout, one: 1}
	for _, f := range []**os.File{&r.kick, &r.call, &r.err} {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return r, fmt.Errorf("eventfd: %w", err)
		}
		*f = os.NewFile(uintptr(fd), "eventfd")
	}
	r.callEnd = r.call
	if c.opts.Signals {
		r.call.Close()
		var err error
		if r.call, r.callEnd, err = os.Pipe(); err != nil {
			return r, fmt.Errorf("pipe: %w", err)
		}
	}
	r.free = make([]uint16, 0, at.slots)
	r.out = make([]uint16, at.slots)
	r.lengths = make([]uint32, at.slots)
	r.reset(c.opts.Base)
	return r, nil
}

func (r *Ring) close() {
	for _, f := range []*os.File{r.kick, r.call, r.err, r.callEnd} {
		if f != nil {
			f.Close() // twice, where both are one
		}
	}
}

// unwritten is the length of a slot whose descriptors must be written again.
const unwritten = 1 << 31

// reset empties the ring and writes every chain.
func (r *Ring) reset(base uint16) {
	r.next, r.shown, r.kicked, r.last = base, base, base, base
	r.outAt, r.outLen = 0, 0
	r.free = r.free[:0]
	for s := range r.at.slots {
		r.free = append(r.free, uint16(s))
		r.lengths[s] = unwritten
		r.describe(uint16(s), r.at.size)
	}
	clear(r.mem[r.at.used : r.at.used+uint64(4+8*r.size+2)])
	r.store32(r.at.used, uint32(base)<<16)
	r.store32(r.at.avail, 1|uint32(base)<<16) // no calls until the driver waits
	r.setEvent(base - 1)
}

func (r *Ring) p(off uint64) unsafe.Pointer  { return unsafe.Pointer(&r.mem[off]) }
func (r *Ring) store32(off uint64, v uint32) { atomic.StoreUint32((*uint32)(r.p(off)), le.U32(v)) }
func (r *Ring) load32(off uint64) uint32     { return le.U32(atomic.LoadUint32((*uint32)(r.p(off)))) }
func (r *Ring) full()                        { atomic.AddUint32(&r.fence, 1) }
func (r *Ring) buffer(slot uint16) []byte {
	return r.mem[r.at.buffers+uint64(slot)*uint64(r.at.stride):][:r.at.size]
}
func (r *Ring) setEvent(v uint16)                 { *(*uint16)(r.p(r.at.avail + uint64(4+2*r.size))) = le.U16(v) }
func (r *Ring) availEvent() uint16                { return le.U16(*(*uint16)(r.p(r.at.used + uint64(4+8*r.size)))) }
func (r *Ring) usedIdx() uint16                   { return uint16(r.load32(r.at.used) >> 16) }
func (r *Ring) usedAt(i uint16) (id, size uint32) { return r.Used(int(i) & (r.size - 1)) }

// describe writes the chain of a slot for a frame of size bytes.
func (r *Ring) describe(slot uint16, size int) {
	if r.lengths[slot] == uint32(size) {
		return
	}
	r.lengths[slot] = uint32(size)
	addr := GuestBase + r.at.buffers + uint64(slot)*uint64(r.at.stride)
	first, table := int(slot)*r.at.segments, r.at.desc
	if r.at.indirect {
		table = r.at.tables + 16*uint64(first)
		r.SetDesc(int(slot), Desc{GuestBase + table, uint32(16 * r.at.segments), Indirect, 0})
		first = 0
	}
	each := (size + r.at.segments - 1) / r.at.segments
	for i := range r.at.segments {
		n := min(each, size)
		d := Desc{Addr: addr, Len: uint32(n)}
		if r.at.receive {
			d.Flags |= Write
		}
		if i < r.at.segments-1 {
			d.Flags |= Next
			d.Next = uint16(first + i + 1)
		}
		r.setDesc(table+16*uint64(first+i), d)
		addr, size = addr+uint64(n), size-n
	}
}

// head is the first descriptor of a slot.
func (r *Ring) head(slot uint16) uint16 {
	if r.at.indirect {
		return slot
	}
	return slot * uint16(r.at.segments)
}

// give makes a free slot available. The device does not see it before show.
func (r *Ring) give(slot uint16) {
	r.SetAvail(int(r.next)&(r.size-1), r.head(slot))
	r.next++
	r.out[(r.outAt+r.outLen)%len(r.out)] = slot
	r.outLen++
}

// show makes the available heads visible to the device, and kicks it if it wants a kick.
func (r *Ring) show() {
	if r.shown == r.next {
		return
	}
	r.store32(r.at.avail, r.load32(r.at.avail)&0xffff|uint32(r.next)<<16)
	r.shown = r.next
	r.full()
	old := r.kicked
	r.kicked = r.next
	if r.eventIdx {
		if r.next-r.availEvent()-1 >= r.next-old {
			return
		}
	} else if r.load32(r.at.used)&1 != 0 {
		return
	}
	r.Kick()
}

// Kick wakes the device.
func (r *Ring) Kick() {
	r.Kicks++
	unix.RawSyscall(unix.SYS_WRITE, r.kick.Fd(), uintptr(unsafe.Pointer(&r.one)), 8)
}

// done returns the number of heads that the device has completed and the driver has not taken.
func (r *Ring) done() (int, error) {
	n := int(r.usedIdx() - r.last)
	if n > r.outLen {
		return 0, fmt.Errorf("%w: ring %d: used index %d is %d ahead, with %d heads out", ErrDevice, r.index, r.usedIdx(), n, r.outLen)
	}
	return n, nil
}

// collect takes one completed head, which must be the oldest.
func (r *Ring) collect() (slot uint16, size uint32, err error) {
	id, size := r.usedAt(r.last)
	slot = r.out[r.outAt]
	if id != uint32(r.head(slot)) {
		return 0, 0, fmt.Errorf("%w: ring %d: head %d completed at used index %d, want %d", ErrDevice, r.index, id, r.last, r.head(slot))
	}
	r.outAt = (r.outAt + 1) % len(r.out)
	r.outLen--
	r.last++
	return slot, size, nil
}

// wait waits until the used index is n ahead of the next one to read. n is at
// most the number of heads in flight.
func (r *Ring) wait(n int) error {
	deadline := time.Now().Add(r.timeout)
	for {
		if r.eventIdx {
			r.setEvent(r.last + uint16(n) - 1)
		} else {
			r.store32(r.at.avail, r.load32(r.at.avail)&^1)
		}
		r.full()
		if have, err := r.done(); err != nil || have > 0 {
			if !r.eventIdx {
				r.store32(r.at.avail, r.load32(r.at.avail)|1)
			}
			return err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%w: ring %d: %d heads out, used index %d, avail index %d, waited %s", ErrTimeout, r.index, r.outLen, r.usedIdx(), r.next, r.timeout)
		}
		for r.sleep(left) && r.Lose > 0 {
			r.Lose--
			left = time.Until(deadline)
		}
	}
}

// Arm requests a call with the next head that the device completes.
func (r *Ring) Arm() {
	if r.eventIdx {
		r.setEvent(r.last)
	} else {
		r.store32(r.at.avail, r.load32(r.at.avail)&^1)
	}
	r.full()
}

// sleep waits for a call and reports whether one arrived.
func (r *Ring) sleep(most time.Duration) bool {
	r.poll[0] = unix.PollFd{Fd: int32(r.call.Fd()), Events: unix.POLLIN}
	end := time.Now().Add(most)
	r.asleep.Store(true)
	k, err := unix.Poll(r.poll[:], int(max(most, 0)/time.Millisecond)+1)
	for err == unix.EINTR { // Go's scheduler sends signals
		k, err = unix.Poll(r.poll[:], int(max(time.Until(end), 0)/time.Millisecond)+1)
	}
	r.asleep.Store(false)
	if err != nil || k == 0 {
		return false
	}
	unix.Read(int(r.call.Fd()), r.count[:])
	r.Calls++
	return true
}

// Asleep reports whether the driver has found nothing and waits for a call. Any
// goroutine may use it.
func (r *Ring) Asleep() bool { return r.asleep.Load() }

// Waiting returns the number of heads that the device holds.
func (r *Ring) Waiting() int { return r.outLen }
