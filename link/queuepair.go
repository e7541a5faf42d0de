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

// turnPackets and turnBytes limit one turn in one direction. Drops count as work (CVE-2019-3900).
const (
	turnPackets = 256
	turnBytes   = 2 << 20
)

// callBytes is the most that a pump copies within a turn before it shows the driver the completed
// packets and calls it. The driver works on them while the pump copies the next ones.
const callBytes = 128 << 10

// badChains is the number of bad chains in a row, without a packet in between, that stops a ring.
// Its driver will not recover.
const badChains = 1024

// maxIov is IOV_MAX, the most segments that one readv or writev takes.
const maxIov = 1024

// virtqueue is one ring of a queue pair with its descriptors, as the pump runs it.
type virtqueue struct {
	ring    *vring.Ring
	placed  *vring.Ring // started and not yet run: not polled
	kick    int         // descriptors, -1 for none
	call    int
	err     int
	enabled bool
	broken  bool
	bad     int           // bad chains in a row
	socket  bool          // call is a socket: its peer is called by signals
	pause   time.Duration // before a call is repeated (pauseFor)
	owed    owed
	ctr     *counters
}

func (e *virtqueue) running() bool { return e.ring != nil && !e.broken }

// queuePair pumps one queue pair: one goroutine on one thread that sleeps in one epoll_wait for the
// TUN, the kicks and its orders. All descriptors are edge-triggered. A kick needs no read, and a
// readable TUN does not keep the pump awake while there is no receive buffer.
type queuePair struct {
	index  int
	fd     int // TUN, TAP or stream socket
	seam   bool
	merge  bool // mergeable receive buffers were negotiated
	gso    frame.GSO
	spin   time.Duration // how long to poll before sleeping
	rx, tx virtqueue     // from the card's side: rx is towards the card
	stream *stream       // passt's socket instead of a TUN or TAP, or nil

	control control // used only by the first queue

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
	q.iov = make([]unix.Iovec, 1, maxIov) // the first is the pump's header
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

// virtqueues returns all rings of the queue pair.
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
// If f removes a ring, nothing touches that ring after do has returned.
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

// run pumps until quit is set.
func (q *queuePair) run() {
	runtime.LockOSThread()
	// If the front end truncates its memory file, a ring access faults. As a
	// panic the fault ends this process in good order.
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

// napTime is how long a pump sleeps in ms before it releases its P in Go's scheduler. The release
// makes the runtime's monitor thread run every 20 µs and costs a second wake-up on return. That is
// too much between two packets of a busy link, and fine for an idle one. A garbage collection waits
// at most this long for a napping pump.
const napTime = 1

// wait calls epoll_wait, first for a nap, then until an event or the next recall.
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

// publish shows the driver the completed heads and calls it if it wants a call.
func (e *virtqueue) publish() {
	e.ring.Show()
	if e.ring.MustCall() {
		e.signal()
	}
}

// signal calls the driver. EAGAIN of a call descriptor means that it is
// signalled already.
//
// O_NONBLOCK belongs to the open file, which the front end shares and may change at any time. For a
// socket each call passes MSG_DONTWAIT, and vhostuser has reopened a pipe. An eventfd allows
// neither (no RWF_NOWAIT as of Linux 6.18). A front end that fills its counter and clears the flag
// makes this queue pair block, without a CPU, until the keeper's next order to it goes unanswered.
// The keeper then kills the pump, which ends the wait, and the next pump sets the flag again.
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

// chainError handles a head that cannot be used. A bad chain goes back with length 0. A broken
// ring, or one with too many bad chains in a row, is stopped and reported. The other rings go on.
// chainError reports whether the ring still runs.
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

// replaceFD closes the old descriptor, if any, and stores the new one.
func replaceFD(old *int, fd int) {
	if *old >= 0 {
		unix.Close(*old)
	}
	*old = fd
}
