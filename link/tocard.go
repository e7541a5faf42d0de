package link

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vring"
)

// need returns the bytes that the largest packet takes on the bus: an IP packet of 65535 bytes
// behind its seam, or on a port an Ethernet frame with such a packet and perhaps a VLAN tag.
func (q *queuePair) need() int {
	const vlan = 4
	if q.seam {
		return frame.SeamLen + frame.MaxPacket
	}
	return frame.SeamLen + frame.MaxPacket + vlan
}

// skip returns the length of the head that readv and writev do not move: the whole seam on a link,
// only the virtio header on a port.
func (q *queuePair) skip() int {
	if q.seam {
		return frame.SeamLen
	}
	return frame.HeaderLen
}

// fill takes receive buffers until the largest packet has room, and reports
// whether it has. If the ring can never hold that much, fill uses what there
// is. Packets that do not fit are dropped and counted.
func (q *queuePair) fill() bool {
	w, r, need, full := &q.win, q.rx.ring, q.need(), false
	for w.bytes < need && w.hi-w.lo < maxIov-1 && (q.merge || w.count() == 0) {
		n, err := r.Waiting()
		if err == nil && n == 0 {
			break
		}
		var head uint16
		var out []unix.Iovec
		var size int
		if err == nil {
			w.compact()
			room := maxIov - 1 - (w.hi - w.lo)
			if head, out, size, err = r.Take(w.iov[w.hi : w.hi : w.hi+room]); err == nil && size < q.skip()+1 {
				err = errShortBuffer
			}
		}
		if err != nil {
			if full = w.count() > 0 && errors.Is(err, vring.ErrSegments); full {
				r.Untake() // taken again when there is room
				break
			}
			q.giveBack()
			if !q.chainError(&q.rx, head, err) {
				return false
			}
			continue
		}
		w.add(chain{head, uint16(r.Entries()), size}, out)
	}
	if k := len(w.chains); k > w.clo {
		// Waiting is useless if the ring has no room for another chain like
		// the last, or if one call takes no more segments.
		full = full || w.entries+int(w.chains[k-1].entries) > r.Size() || w.hi-w.lo >= maxIov-1
	}
	w.starved = w.bytes < need && !full && (q.merge || w.count() == 0)
	return !w.starved
}

// giveBack returns the chains that were taken and not filled, with length 0, which a driver passes
// over. Heads go back in the order they were taken. Without giveBack a bad chain behind good ones
// would block the buffers behind it, and a packet that needs more than the good ones could not
// pass.
func (q *queuePair) giveBack() {
	for q.win.count() > 0 {
		q.rx.ring.Complete(q.win.pop().head, 0)
	}
}

// toCard moves packets from the host to the card until there are none, or no
// room for them, or the turn is over. It reports whether it did anything.
func (q *queuePair) toCard() bool {
	if !q.rx.running() || !q.rx.enabled {
		return false
	}
	if q.stream != nil {
		return q.stream.toCard(q)
	}
	packets, bytes, since := uint64(0), uint64(0), 0
	tries := 0
	for ; tries < turnPackets && bytes < turnBytes; tries++ {
		if !q.fill() {
			if q.win.starved && tries == 0 {
				count(&q.rx.ctr.stalls, 1)
			}
			break
		}
		n, used, ok := q.readPacket()
		if !ok {
			break
		}
		if n == 0 {
			continue
		}
		packets, bytes, since = packets+1, bytes+uint64(n), since+used
		if since >= callBytes {
			q.rx.publish()
			since = 0
		}
	}
	if q.rx.running() {
		q.rx.publish()
	}
	count(&q.rx.ctr.packets, packets)
	count(&q.rx.ctr.bytes, bytes)
	return tries > 0
}

// readPacket reads one packet from the host straight into the card's buffers.
// That copy is the DMA. It returns the bytes of the packet and on the bus,
// 0 if the packet was dropped, and false if there was none.
func (q *queuePair) readPacket() (n, used int, ok bool) {
	w, skip := &q.win, q.skip()
	at, entry := w.open(skip)
	own := w.iov[at-1]
	w.iov[at-1] = unix.Iovec{Base: &q.hdr[0], Len: frame.HeaderLen}
	got, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(q.fd), uintptr(unsafe.Pointer(&w.iov[at-1])), uintptr(w.hi-at+1))
	first := byte(0)
	if e == 0 && got > frame.HeaderLen {
		first = *w.iov[at].Base // read once; only selects the constant to write
	}
	w.iov[at-1] = own
	w.iov[at] = entry
	switch {
	case e == unix.EFAULT:
		// The packet is gone from the host's queue. There may be more, and
		// an edge-triggered descriptor does not signal them again. It is
		// unknown which buffer faulted, so all go back and others are tried.
		count(&q.rx.ctr.fault, 1)
		q.giveBack()
		return 0, 0, true
	case e == unix.EINTR:
		return 0, 0, true
	case e != 0 || int(got) < frame.HeaderLen:
		return 0, 0, false
	}
	if n = int(got) - frame.HeaderLen; n == 0 {
		return 0, 0, true
	}
	used = n + skip
	if used >= w.bytes && w.bytes < q.need() {
		// The packet filled all buffers and may have been longer.
		count(&q.rx.ctr.tooSmall, 1)
		return 0, 0, true
	}
	if !q.deliver(n, used, first) {
		return 0, 0, true
	}
	return n, used, true
}

// deliver writes the head of a packet of n bytes and then completes the chains that the packet
// filled.
func (q *queuePair) deliver(n, used int, first byte) bool {
	w := &q.win
	buffers := 0
	for left := used; left > 0; buffers++ {
		left -= w.chains[w.clo+buffers].bytes
	}
	var s frame.Seam
	if q.seam {
		if err := frame.ToCard(&s, q.hdr, first, n, uint16(buffers)); err != nil {
			q.rx.ctr.drop(err)
			return false
		}
	} else {
		frame.ToCardEthernet(&s, q.hdr, uint16(buffers))
	}
	w.write(0, s[:q.skip()])
	q.rx.bad = 0
	for left := used; buffers > 0; buffers-- {
		c := w.pop()
		q.rx.ring.Complete(c.head, min(left, c.bytes))
		left -= c.bytes
	}
	return true
}
