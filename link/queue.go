package link

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vring"
)

// badChains is the number of bad chains in a row, without a packet in between, that stops a ring.
// Its driver will not recover.
const badChains = 1024

// ringKind is what a type of device decides about a ring.
type ringKind struct {
	write bool // the device writes into the buffers
	both  bool // requests: segments to read, then segments to write
	most  int  // bytes of a chain; 0 means vring.MaxChain
}

// virtqueue is one ring with its descriptors, as its queue runs it.
type virtqueue struct {
	number  int // of the ring, for messages
	kind    ringKind
	fresh   func() // called when the ring begins, moves or is dropped; may be nil
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

// queue is the part of a worker that serves a few rings: one goroutine on one thread that sleeps in
// one epoll_wait for the kicks and its orders, and for what else the device watches. All descriptors
// are edge-triggered, so a kick needs no read.
type queue struct {
	all    []*virtqueue
	epoll  int
	wake   int // eventfd: there are orders
	orders chan func()
	posted atomic.Bool
	quit   bool
	laps   uint                      // rounds of run
	report func(ring int, err error) // reports a ring that was stopped
}

// open makes the descriptors of a queue for these rings.
func (q *queue) open(report func(int, error), all ...*virtqueue) error {
	q.all, q.report, q.orders, q.wake = all, report, make(chan func(), 16), -1
	for _, e := range all {
		e.kick, e.call, e.err = -1, -1, -1
	}
	var err error
	if q.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create: %w", err)
	}
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	return q.watch(q.wake, unix.EPOLLIN)
}

// watch and unwatch add and remove a descriptor of the epoll set.
func (q *queue) watch(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(q.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl of descriptor %d: %w", fd, err)
	}
	return nil
}

func (q *queue) unwatch(fd int) {
	if fd >= 0 {
		unix.EpollCtl(q.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// do runs f on the queue's goroutine between two turns, and waits for it.
// If f removes a ring, nothing touches that ring after do has returned.
func (q *queue) do(f func()) {
	done := make(chan struct{})
	q.orders <- func() { f(); close(done) }
	q.posted.Store(true)
	unix.Write(q.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-done
}

func (q *queue) runOrders() {
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

// napTime is how long a pump sleeps in ms before it releases its P in Go's scheduler. The release
// makes the runtime's monitor thread run every 20 µs and costs a second wake-up on return. That is
// too much between two packets of a busy link, and fine for an idle one. A garbage collection waits
// at most this long for a napping pump.
const napTime = 1

// wait calls epoll_wait, first for a nap, then until an event or the next recall.
func (q *queue) wait(events []unix.EpollEvent) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(q.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), napTime, 0, 0)
	if e == 0 && n > 0 {
		return int(n)
	}
	if e == unix.EINTR || q.posted.Load() {
		return 0
	}
	m, err := unix.EpollWait(q.epoll, events, q.recall(napTime*time.Millisecond))
	if err != nil && err != unix.EINTR {
		panic(fmt.Sprintf("ring %d: epoll_wait: %v", q.all[0].number, err))
	}
	return max(m, 0)
}

func (q *queue) sleep() {
	var events [8]unix.EpollEvent
	n := q.wait(events[:])
	for i := range n {
		fd := int(events[i].Fd)
		if fd == q.wake {
			var b [8]byte
			unix.Read(q.wake, b[:])
			continue
		}
		for _, e := range q.all {
			if fd == e.kick {
				count(&e.ctr.kicks, 1)
			}
		}
	}
	for _, e := range q.all {
		if e.running() {
			e.ring.NoKicks()
		}
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
// makes this queue block, without a CPU, until the keeper's next order to it goes unanswered.
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
func (q *queue) chainError(e *virtqueue, head uint16, err error) bool {
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
	q.report(e.number, err)
	return false
}

// replaceFD closes the old descriptor, if any, and stores the new one.
func replaceFD(old *int, fd int) {
	if *old >= 0 {
		unix.Close(*old)
	}
	*old = fd
}
