package link

import (
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// turnPackets and turnBytes limit one turn in one direction. Drops count as work (CVE-2019-3900).
const (
	turnPackets = 256
	turnBytes   = 2 << 20
)

// callBytes is the most that a pump copies within a turn before it shows the driver the completed
// packets and calls it. The driver works on them while the pump copies the next ones.
const callBytes = 128 << 10

// maxIov is IOV_MAX, the most segments that one readv or writev takes.
const maxIov = 1024

// queuePair pumps one queue pair. It also watches the TUN: a readable one does not keep the pump
// awake while there is no receive buffer.
type queuePair struct {
	queue
	index  int
	fd     int // TUN, TAP or stream socket
	seam   bool
	merge  bool // mergeable receive buffers were negotiated
	gso    frame.GSO
	spin   time.Duration // how long to poll before sleeping
	rx, tx virtqueue     // from the card's side: rx is towards the card
	stream *stream       // passt's socket instead of a TUN or TAP, or nil

	control control // used only by the first queue

	win window // receive buffers taken and not yet filled
	hdr *[frame.HeaderLen]byte
	iov []unix.Iovec // of the chain being sent
}

func newQueuePair(index, pairs, fd int, b *board, report func(int, error)) (*queuePair, error) {
	q := &queuePair{index: index, fd: fd, hdr: new([frame.HeaderLen]byte)}
	q.rx.number, q.tx.number, q.control.number = 2*index, 2*index+1, 2*pairs
	q.rx.kind.write, q.control.kind.both = true, true
	forget := func() { q.control.used = 0 } // another driver, or the same one restarted
	q.rx.fresh = func() { q.win.reset(); forget() }
	q.tx.fresh, q.control.fresh = forget, forget
	q.rx.ctr, q.tx.ctr, q.control.ctr = &b.all[2*index], &b.all[2*index+1], new(counters)
	q.iov = make([]unix.Iovec, 1, maxIov) // the first is the pump's header
	q.win.init()
	if index > 0 {
		return q, q.open(report, &q.rx, &q.tx)
	}
	return q, q.open(report, &q.rx, &q.tx, &q.control.virtqueue)
}

// run pumps until quit is set.
func (q *queuePair) run() {
	runtime.LockOSThread()
	// If the front end truncates its memory file, a ring access faults. As a
	// panic the fault ends this process in good order.
	debug.SetPanicOnFault(true)
	var awake time.Time
	for !q.quit {
		if q.posted.Load() {
			q.runOrders()
			continue
		}
		if q.laps++; q.laps%lookAgain == 0 {
			q.recall(0)
		}
		if q.control.running() {
			q.runCommands()
		}
		busy := q.toHost()
		if q.toCard() || busy {
			if q.spin > 0 {
				awake = time.Now()
			}
			continue
		}
		if q.spin > 0 && time.Since(awake) < q.spin {
			continue
		}
		if q.settle() {
			continue
		}
		q.sleep()
	}
}

// settle enables kicks from the card and polls once more, since the driver may have omitted a kick
// between the last poll and the request. It reports whether there is work.
func (q *queuePair) settle() bool {
	more := false
	// If the stream socket is full, the kernel signals when it is writable
	// again. Until then more frames need no wake-up.
	if q.tx.running() && !(q.stream != nil && q.stream.stuck()) {
		more = q.tx.ring.WantKicks()
	}
	// The pump waits for buffers only while there are none. Otherwise each
	// buffer that the driver puts back would wake it. It does not wait for
	// buffers of a disabled ring either, since nothing uses them.
	if q.rx.running() && q.rx.enabled && q.win.starved {
		more = q.rx.ring.WantKicks() || more
	}
	if q.control.running() {
		more = q.control.ring.WantKicks() || more
	}
	return more
}

// drop counts a packet that a frame error stopped.
func (c *counters) drop(err error) {
	switch err {
	case frame.ErrShort:
		count(&c.short, 1)
	case frame.ErrLong:
		count(&c.long, 1)
	case frame.ErrNotIP:
		count(&c.notIP, 1)
	default:
		count(&c.header, 1)
	}
}
