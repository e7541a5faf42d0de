// Package loop is an event loop on one thread, over epoll(7), and io_uring(7) where the kernel has
// it (package ring).
//
// Handlers run one at a time and share state without locks. A handler that has used up its share of
// a turn requests another turn with Soon.
package loop

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
	"github.com/toe-project/toe/offload/ring"
)

// Handler owns a descriptor in the loop. Ready is called with EPOLL* bits. Add registers
// edge-triggered: Ready must continue until EAGAIN, or until its budget is used up and then request
// another turn with Loop.Soon. The bits are hints: an earlier call may have handled the event
// already.
type Handler interface{ Ready(events uint32) }

// Loop runs all handlers on one thread. Its methods must be called on that thread, except Do and
// Stop.
type Loop struct {
	epoll, bell int // bell: an eventfd that wakes the loop
	slots       []slot
	turns       []func()   // run in the next turn
	ring        *ring.Ring // nil: epoll alone
	passing     []passing  // see pass

	timers timers
	alarm  int       // a timerfd
	alert  time.Time // expiry of alarm; zero: not set
	start  time.Time
	clock  time.Time // see Now; zero: not read in this turn

	mu     sync.Mutex // guards orders and closed
	orders []func()
	closed bool
	done   chan struct{}
}

// slot is the handler of a descriptor number. The generation distinguishes events of a closed
// descriptor from those of its successor.
type slot struct {
	h          Handler
	generation uint32
}

// New makes a loop. Run runs it. Stop, or Discard if it never ran, frees its descriptors.
func New() (*Loop, error) {
	l, err := NewEpoll()
	if err != nil {
		return nil, err
	}
	if l.ring, err = ring.New(); err != nil {
		l.ring = nil // epoll suffices
	}
	return l, nil
}

// NewEpoll makes a loop over epoll alone.
func NewEpoll() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	l := &Loop{epoll: epoll, bell: -1, alarm: -1, start: time.Now(), done: make(chan struct{})}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.Discard()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if l.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		l.Discard()
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	if err := errors.Join(l.Add(l.bell, unix.EPOLLIN, bellHandler{l}), l.Add(l.alarm, unix.EPOLLIN, alarmHandler{l})); err != nil {
		l.Discard()
		return nil, err
	}
	return l, nil
}

// Discard frees a loop that never ran.
func (l *Loop) Discard() {
	if l.ring != nil {
		l.ring.Close()
	}
	for _, fd := range []int{l.epoll, l.bell, l.alarm} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Run runs the loop until Stop.
func (l *Loop) Run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.done)
	if l.ring != nil && l.ring.Begin() != nil {
		l.ring.Close()
		l.ring = nil
	}
	buffer := make([]unix.EpollEvent, ring.Batch)
	l.arm()
	for {
		events, err := l.wait(buffer)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // a descriptor is closed
		}
		l.deliver(l.pass(events))
		if l.runOrders() {
			l.Settle()
			return
		}
		turns := l.turns
		l.turns = nil
		if len(turns) > 0 {
			l.flush()
		}
		for _, f := range turns {
			f()
		}
		l.arm()
	}
}

func (l *Loop) deliver(events []unix.EpollEvent) {
	for _, ev := range events {
		if s := l.slots[ev.Fd]; s.h != nil && s.generation == uint32(ev.Pad) {
			s.h.Ready(ev.Events)
		}
	}
}

// wait waits for events. The alarm wakes it in time for the timers. It first waits for a
// millisecond without notifying Go's scheduler: under traffic the next event comes sooner than
// that.
func (l *Loop) wait(buffer []unix.EpollEvent) ([]unix.EpollEvent, error) {
	if l.ring != nil {
		err := l.ring.Wait(l.epoll, len(l.turns) == 0)
		l.clock = time.Time{}
		return l.results(), err
	}
	n, err := raw.EpollWait(l.epoll, buffer, len(l.turns) == 0)
	if n == 0 && len(l.turns) == 0 {
		raw.Calls.Add(1)
		n, err = unix.EpollWait(l.epoll, buffer, -1)
	}
	l.clock = time.Time{}
	return buffer[:max(n, 0)], err
}

// Soon runs f in the next turn, after the events that are pending now.
func (l *Loop) Soon(f func()) { l.turns = append(l.turns, f) }

// Do runs f on the loop's thread and waits for it. It reports whether f ran; after Stop f does not
// run.
func (l *Loop) Do(f func()) bool {
	ran := make(chan struct{})
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.orders = append(l.orders, func() { f(); close(ran) })
	l.wake()
	l.mu.Unlock()
	select {
	case <-ran:
		return true
	case <-l.done:
		return false
	}
}

// Stop ends Run after earlier calls of Do have run, waits for it to return, and frees the loop's
// descriptors.
func (l *Loop) Stop() {
	l.mu.Lock()
	l.closed = true
	l.wake()
	l.mu.Unlock()
	<-l.done
	l.Discard()
}

// wake wakes the loop. It is called with mu held, and last by Stop: after that the bell's
// descriptor number may belong to another file, which would receive the bytes.
func (l *Loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.bell, one[:]) // EAGAIN: a wakeup is pending already
}

func (l *Loop) runOrders() (ended bool) {
	l.mu.Lock()
	orders := l.orders
	l.orders = nil
	ended = l.closed
	l.mu.Unlock()
	if len(orders) > 0 || ended {
		l.flush()
	}
	for _, f := range orders {
		f()
	}
	return ended
}

type bellHandler struct{ *Loop }

func (b bellHandler) Ready(uint32) {
	var count [8]byte
	_, _ = raw.Read(b.bell, count[:])
}
