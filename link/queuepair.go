package link

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vring"
)

// What one turn in one direction may do before the other has its turn. Drops
// count as work (CVE-2019-3900).
const (
	turnPackets = 256
	turnBytes   = 2 << 20
)

// A driver is called, and sees what is done, at least this often within a
// turn: it works on the first packets while we copy the next.
const callBytes = 128 << 10

// badChains in a row, with no packet moved between them, stop a ring: its driver
// will not get better.
const badChains = 1024

// maxIov is IOV_MAX: the segments that one readv or writev takes.
const maxIov = 1024

// virtqueue is one ring of a queue pair with its descriptors, as the pump runs it.
type virtqueue struct {
	ring    *vring.Ring
	placed  *vring.Ring // started and not yet run: nothing looks at it
	kick    int         // descriptors, -1 for none
	call    int
	err     int
	enabled bool
	broken  bool
	bad     int           // bad chains in a row
	socket  bool          // call is a socket: its other side is called by signals
	pause   time.Duration // before a call is made again (pauseFor)
	owed    owed
	ctr     *counters
}

func (e *virtqueue) running() bool { return e.ring != nil && !e.broken }

// queuePair pumps one queue pair: one goroutine on one thread that sleeps in one
// epoll_wait for the TUN, the kicks and its orders. All of it edge-triggered,
// so that a kick needs no read and a TUN whose packets have no buffer to go
// to does not keep us awake.
type queuePair struct {
	index  int
	fd     int // TUN, TAP or stream socket
	seam   bool
	merge  bool // mergeable receive buffers were negotiated
	gso    frame.GSO
	spin   time.Duration // how long to look around before sleeping
	rx, tx virtqueue     // as the card sees them: rx is towards the card
	stream *stream       // passt's socket instead of a TUN or TAP, or nil

	control control // used by the first queue alone

	epoll  int
	wake   int // eventfd: there are orders
	orders chan func()
	posted atomic.Bool
	quit   bool
	laps   uint                      // rounds of run
	report func(ring int, err error) // reports a ring that was stopped

	win window // receive buffers taken and not yet filled
	hdr *[frame.HeaderLen]byte
	iov []unix.Iovec // of the chain being sent
}

func newQueuePair(index, fd int, b *board, report func(int, error)) (*queuePair, error) {
	q := &queuePair{index: index, fd: fd, report: report, orders: make(chan func(), 16), hdr: new([frame.HeaderLen]byte)}
	for _, e := range q.virtqueues() {
		e.kick, e.call, e.err = -1, -1, -1
	}
	q.rx.ctr, q.tx.ctr, q.control.ctr = &b.all[2*index], &b.all[2*index+1], new(counters)
	q.iov = make([]unix.Iovec, 1, maxIov) // the first is our own
	q.win.init()
	var err error
	if q.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return q, q.watch(q.wake, unix.EPOLLIN)
}

// virtqueues are all rings of the queue.
func (q *queuePair) virtqueues() [3]*virtqueue {
	return [3]*virtqueue{&q.rx, &q.tx, &q.control.virtqueue}
}

// watch and unwatch add and remove a descriptor of the epoll set.
func (q *queuePair) watch(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(q.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl of descriptor %d: %w", fd, err)
	}
	return nil
}

func (q *queuePair) unwatch(fd int) {
	if fd >= 0 {
		unix.EpollCtl(q.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// do runs f on the queue's goroutine between two turns, and waits for it.
// After do has returned with a ring taken away, nothing touches that ring.
func (q *queuePair) do(f func()) {
	done := make(chan struct{})
	q.orders <- func() { f(); close(done) }
	q.posted.Store(true)
	unix.Write(q.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-done
}

func (q *queuePair) obey() {
	q.posted.Store(false)
	for {
		select {
		case f := <-q.orders:
			f()
		default:
			return
		}
	}
}

// run pumps until it is told to quit.
func (q *queuePair) run() {
	runtime.LockOSThread()
	// A front end that cuts its memory file short turns a ring access into
	// a fault; as a panic it ends this process in good order.
	debug.SetPanicOnFault(true)
	var awake time.Time
	for !q.quit {
		if q.posted.Load() {
			q.obey()
			continue
		}
		if q.laps++; q.laps%lookAgain == 0 {
			q.recall(0)
		}
		if q.control.running() {
			q.obeyCard()
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

// settle asks the card for kicks and looks once more, since one may have been
// spared between the last look and the wish. It says whether there is work.
func (q *queuePair) settle() bool {
	more := false
	// Of a socket that takes nothing the kernel tells when it does again;
	// until then more frames are nothing to wake for.
	if q.tx.running() && !(q.stream != nil && q.stream.stuck()) {
		more = q.tx.ring.WantKicks()
	}
	// Buffers are waited for only while there are none: otherwise each one
	// that the driver puts back would wake us. Nor are they where the ring is
	// switched off, since then nothing looks at them.
	if q.rx.running() && q.rx.enabled && q.win.starved {
		more = q.rx.ring.WantKicks() || more
	}
	if q.control.running() {
		more = q.control.ring.WantKicks() || more
	}
	return more
}

// napTime is how long a pump sleeps in ms before it lets go of its place in
// Go's scheduler. Letting go has the runtime's monitor thread run every 20 µs
// and costs a second wake-up on the way back: too much between two packets of
// a busy link, and right for an idle one. No garbage collection waits longer
// than this for a pump that naps.
const napTime = 1

// wait is epoll_wait, first as a nap, then for as long as it takes.
func (q *queuePair) wait(events []unix.EpollEvent) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(q.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), napTime, 0, 0)
	if e == 0 && n > 0 {
		return int(n)
	}
	if e == unix.EINTR || q.posted.Load() {
		return 0
	}
	m, err := unix.EpollWait(q.epoll, events, q.recall(napTime*time.Millisecond))
	if err != nil && err != unix.EINTR {
		panic(fmt.Sprintf("queue %d: epoll_wait: %v", q.index, err))
	}
	return max(m, 0)
}

func (q *queuePair) sleep() {
	var events [8]unix.EpollEvent
	n := q.wait(events[:])
	for i := range n {
		switch fd := int(events[i].Fd); fd {
		case q.rx.kick:
			count(&q.rx.ctr.kicks, 1)
		case q.tx.kick:
			count(&q.tx.ctr.kicks, 1)
		case q.wake:
			var b [8]byte
			unix.Read(q.wake, b[:])
		}
	}
	if q.tx.running() {
		q.tx.ring.NoKicks()
	}
	if q.rx.running() {
		q.rx.ring.NoKicks()
	}
	if q.control.running() {
		q.control.ring.NoKicks()
	}
}

// publish shows the driver what is done and calls it if it wants that.
func (e *virtqueue) publish() {
	e.ring.Show()
	if e.ring.MustCall() {
		e.signal()
	}
}

// signal calls the driver. EAGAIN of a call descriptor means that it is
// signalled already.
//
// O_NONBLOCK belongs to the open file, which the front end shares and may change at any time. A socket
// is told for each call not to wait, and a pipe was opened anew by vhostuser. An eventfd can be neither
// (no RWF_NOWAIT as of Linux 6.18): a front end that fills its counter and clears the flag makes this
// queue pair wait, without a CPU, until the keeper's next order to it goes unanswered. The keeper then
// kills the pump, which ends the wait, and the next pump sets the flag again.
func (e *virtqueue) signal() {
	if e.call >= 0 {
		one := uint64(1)
		if e.socket {
			unix.RawSyscall6(unix.SYS_SENDTO, uintptr(e.call), uintptr(unsafe.Pointer(&one)), 8, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		} else {
			unix.RawSyscall(unix.SYS_WRITE, uintptr(e.call), uintptr(unsafe.Pointer(&one)), 8)
		}
		count(&e.ctr.calls, 1)
		e.owed = owed{answer: true}
	}
}

// chainError deals with a head that cannot be used: a bad chain goes back
// with length 0, a broken ring (or one too many bad chains) is stopped and
// told of; the other rings go on. It says whether the ring still runs.
func (q *queuePair) chainError(e *virtqueue, ring int, head uint16, err error) bool {
	if errors.Is(err, vring.ErrChain) {
		e.ring.Complete(head, 0)
		count(&e.ctr.chains, 1)
		if e.bad++; e.bad < badChains {
			return true
		}
		err = fmt.Errorf("%d bad chains in a row, the last: %w", e.bad, err)
	}
	e.publish()
	e.broken = true
	count(&e.ctr.broken, 1)
	if e.err >= 0 {
		unix.Write(e.err, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	q.report(2*q.index+ring, err)
	return false
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

// replaceFD closes the old descriptor, if any, and puts the new one in its
// place.
func replaceFD(old *int, fd int) {
	if *old >= 0 {
		unix.Close(*old)
	}
	*old = fd
}
