package link

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vring"
)

var errShortBuffer = errors.Join(vring.ErrChain, errors.New("receive buffer shorter than the header"))

// toHost moves packets from the card to the host until there are none or the
// turn is over. It reports whether it did anything. The ring of a disabled queue
// pair is consumed and its packets discarded, as the vhost-user specification
// requires.
func (q *queuePair) toHost() bool {
	if !q.tx.running() {
		return false
	}
	r := q.tx.ring
	packets, bytes, since := uint64(0), uint64(0), 0
	tries := 0
	for ; tries < turnPackets && bytes < turnBytes; tries++ {
		if q.stream != nil && q.stream.blocked(q) {
			break
		}
		n, err := r.Waiting()
		if err == nil && n == 0 {
			break
		}
		var head uint16
		var iov []unix.Iovec
		var size int
		if err == nil {
			head, iov, size, err = r.Take(q.iov[:1])
		}
		if err != nil {
			if !q.chainError(&q.tx, head, err) {
				break
			}
			continue
		}
		q.tx.bad = 0
		if !q.tx.enabled {
			count(&q.tx.ctr.disabled, 1)
		} else if sent := q.send(iov, size); sent > 0 {
			packets, bytes = packets+1, bytes+uint64(sent)
		}
		r.Complete(head, 0)
		if since += size; since >= callBytes {
			q.tx.publish()
			since = 0
		}
	}
	if tries > 0 && q.tx.running() {
		q.tx.publish()
	}
	count(&q.tx.ctr.packets, packets)
	count(&q.tx.ctr.bytes, bytes)
	return tries > 0
}

// send checks a frame of size bytes in iov[1:] and writes it to the host
// straight from the card's memory. iov[0] is for the pump's own header. It
// returns the bytes of the packet, 0 if it was dropped.
func (q *queuePair) send(iov []unix.Iovec, size int) int {
	skip := q.skip()
	if size <= skip {
		count(&q.tx.ctr.short, 1)
		return 0
	}
	var s frame.Seam
	at, first := cut(iov, s[:skip])
	var err error
	if q.seam {
		err = frame.FromCard(q.hdr, &s, first, size, q.gso)
	} else {
		*q.hdr = *(*[frame.HeaderLen]byte)(s[:])
		err = frame.Ethernet(q.hdr, size-skip, q.gso)
	}
	if err != nil {
		q.tx.ctr.drop(err)
		return 0
	}
	if q.stream != nil {
		return q.stream.send(q, iov[at-1:], size-skip)
	}
	iov[at-1] = unix.Iovec{Base: &q.hdr[0], Len: frame.HeaderLen}
	_, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&iov[at-1])), uintptr(len(iov)-at+1))
	switch e {
	case 0:
		return size - skip
	case unix.EFAULT:
		count(&q.tx.ctr.fault, 1)
	default:
		count(&q.tx.ctr.refused, 1)
	}
	return 0
}

// cut copies the head of a frame out of iov[1:], once, into head, and removes it from the segments,
// which hold more bytes than the head. It returns the index of the first entry that still has
// bytes, at least 1, and the first of these bytes.
func cut(iov []unix.Iovec, head []byte) (at int, first byte) {
	at = 1
	for {
		n := copy(head, unsafe.Slice(iov[at].Base, iov[at].Len))
		head = head[n:]
		if n < int(iov[at].Len) {
			cutFront(&iov[at], n)
			return at, *iov[at].Base
		}
		at++
	}
}
