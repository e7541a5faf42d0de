package link

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vring"
)

// window holds the card's receive buffers that the pump has taken from
// the ring and not yet filled, as one array of segments. So one readv(2)
// gets as much room as the largest packet needs:
//
//	iov   | spent … | head | segments of chain a | of chain b | … | free
//	                 ^lo-1  ^lo                                ^hi
//
// The entry before lo is always free for the pump's own virtio header. A
// packet uses up the first chains and lo advances.
type window struct {
	iov     []unix.Iovec
	lo, hi  int
	chains  []chain // FIFO, first at clo
	clo     int
	entries int  // of the ring, in all chains
	bytes   int  // in all chains
	starved bool // the last fill found less room than the largest packet needs
}

// chain is one taken head.
type chain struct {
	head    uint16
	entries uint16 // of the ring
	bytes   int
}

func (w *window) init() {
	w.iov = make([]unix.Iovec, 8*maxIov)
	w.chains = make([]chain, 0, 2*maxIov)
	w.reset()
}

// reset forgets the taken chains. The ring counts them as not taken.
func (w *window) reset() {
	w.lo, w.hi, w.clo, w.entries, w.bytes, w.starved = 1, 1, 0, 0, 0, false
	w.chains = w.chains[:0]
}

// compact moves the remaining entries to the front when the arrays run out.
func (w *window) compact() {
	if w.hi+maxIov > len(w.iov) {
		n := copy(w.iov[1:], w.iov[w.lo:w.hi])
		w.lo, w.hi = 1, 1+n
	}
	if len(w.chains) == cap(w.chains) {
		n := copy(w.chains, w.chains[w.clo:])
		w.chains, w.clo = w.chains[:n], 0
	}
}

// pop removes the first chain.
func (w *window) pop() chain {
	c := w.chains[w.clo]
	w.clo++
	w.skip(c.bytes)
	w.entries -= int(c.entries)
	w.bytes -= c.bytes
	if w.clo == len(w.chains) {
		w.lo, w.hi, w.clo, w.chains = 1, 1, 0, w.chains[:0]
	}
	return c
}

// skip moves lo over n bytes: segments of several chains may be one.
func (w *window) skip(n int) {
	for n > 0 {
		v := &w.iov[w.lo]
		if n < int(v.Len) {
			cutFront(v, n)
			return
		}
		n -= int(v.Len)
		w.lo++
	}
}

// add adds a chain, whose segments start at hi. Linux posts the pages of one allocation in order.
// Adjacent pages become one segment.
func (w *window) add(c chain, segments []unix.Iovec) {
	w.chains = append(w.chains, c)
	w.entries += int(c.entries)
	w.bytes += c.bytes
	n := len(segments)
	if w.hi > w.lo && n > 0 && vring.Adjoins(&w.iov[w.hi-1], unsafe.Pointer(segments[0].Base)) {
		w.iov[w.hi-1].Len += segments[0].Len // of a window: a few chains of MaxChain at most
		n = copy(w.iov[w.hi:], segments[1:])
	}
	w.hi += n
}

func (w *window) count() int { return len(w.chains) - w.clo }

// open removes the first skip bytes from the segments. The first chain has more bytes than that.
// open returns the index of the first entry that still has bytes, and the old value of that entry,
// which is the only one that it changes.
func (w *window) open(skip int) (at int, entry unix.Iovec) {
	at = w.lo
	for skip >= int(w.iov[at].Len) {
		skip -= int(w.iov[at].Len)
		at++
	}
	entry = w.iov[at]
	cutFront(&w.iov[at], skip)
	return at, entry
}

// cutFront removes the first n bytes of a segment, which has at least n.
func cutFront(v *unix.Iovec, n int) {
	v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
	v.SetLen(int(v.Len) - n)
}

// write copies b into the segments, skip bytes after their start.
func (w *window) write(skip int, b []byte) {
	for i := w.lo; len(b) > 0; i++ {
		seg := unsafe.Slice(w.iov[i].Base, w.iov[i].Len)
		if skip >= len(seg) {
			skip -= len(seg)
			continue
		}
		b = b[copy(seg[skip:], b):]
		skip = 0
	}
}
