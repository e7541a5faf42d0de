package offload

import (
	"container/heap"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// handler owns a descriptor in the loop. ready is called with EPOLL* bits;
// registrations by add are edge triggered, so it goes on until EAGAIN or until its
// budget is used up, and then asks for another turn with loop.soon. Bits are
// hints: an event may be about what a call has dealt with in the meantime.
type handler interface{ ready(events uint32) }

// loop is the one thread that everything in this package runs on. Its
// methods are for that thread alone, except do and stop.
type loop struct {
	epoll, bell int // bell: an eventfd that ends a wait
	slots       []slot
	timers      timers
	turns       []func()  // what asked for another turn
	start, now  time.Time // now: when this turn began

	mu     sync.Mutex // guards orders and closed
	orders []func()
	closed bool
	done   chan struct{}
}

// slot is what a descriptor number stands for. The generation tells an event
// of a descriptor that was closed from one of its successor.
type slot struct {
	h          handler
	generation uint32
}

func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	now := time.Now()
	l := &loop{epoll: epoll, bell: bell, start: now, now: now, done: make(chan struct{})}
	if err := l.add(bell, unix.EPOLLIN, bellHandler{l}); err != nil {
		_ = unix.Close(epoll)
		_ = unix.Close(bell)
		return nil, err
	}
	return l, nil
}

// add watches fd, edge triggered, for events (EPOLLIN, EPOLLOUT, EPOLLRDHUP).
func (l *loop) add(fd int, events uint32, h handler) error {
	return l.register(fd, events|unix.EPOLLET, h)
}

// addLevel watches fd level triggered: for what is mostly one thing at a time,
// where the look for a second one would be a system call in vain.
func (l *loop) addLevel(fd int, h handler) error { return l.register(fd, unix.EPOLLIN, h) }

func (l *loop) register(fd int, events uint32, h handler) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, len(l.slots)+64)...)
	}
	s := &l.slots[fd]
	s.generation++
	s.h = h
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(s.generation)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.h = nil
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// rest hears nothing of a level triggered descriptor for a while.
func (l *loop) rest(fd int, d time.Duration) {
	generation := l.slots[fd].generation
	listen := func(events uint32) {
		if s := l.slots[fd]; s.h == nil || s.generation != generation {
			return // closed meanwhile
		}
		ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(generation)}
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &ev)
	}
	listen(0)
	l.after(d, func() { listen(unix.EPOLLIN) })
}

// watch is add for a descriptor that may be in the loop already: its handler
// changes, and hears of everything that is there.
func (l *loop) watch(fd int, events uint32, h handler) error {
	if fd >= len(l.slots) || l.slots[fd].h == nil {
		return l.add(fd, events, h)
	}
	l.slots[fd].h = h
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd), Pad: int32(l.slots[fd].generation)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// drop closes a descriptor of the loop.
func (l *loop) drop(fd int) {
	if fd < len(l.slots) {
		l.slots[fd].h = nil
	}
	_ = unix.Close(fd)
}

// soon runs f in the next turn, after the events that are there already.
func (l *loop) soon(f func()) { l.turns = append(l.turns, f) }

// run is the loop, until stop.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.done)
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(l.epoll, events, l.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // the descriptor is gone: closed
		}
		// On User-Mode Linux a look at the clock is a system call, and those
		// are slow there: one a turn, where time.Now takes two.
		l.now = l.start.Add(time.Since(l.start))
		l.deliver(events[:max(n, 0)])
		if l.obey() {
			return
		}
		turns := l.turns
		l.turns = nil
		for _, f := range turns {
			f()
		}
		l.expire()
	}
}

func (l *loop) deliver(events []unix.EpollEvent) {
	for _, ev := range events {
		if s := l.slots[ev.Fd]; s.h != nil && s.generation == uint32(ev.Pad) {
			s.h.ready(ev.Events)
		}
	}
}

// patience is how long a wait may last, in milliseconds.
func (l *loop) patience() int {
	switch {
	case len(l.turns) > 0:
		return 0
	case len(l.timers) == 0:
		return -1
	}
	d := l.timers[0].at.Sub(l.now)
	return int(max(0, (d+time.Millisecond-1)/time.Millisecond))
}

// do runs f on the loop's thread and waits for it. It reports whether f ran:
// after stop it does not.
func (l *loop) do(f func()) bool {
	ran := make(chan struct{})
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.orders = append(l.orders, func() { f(); close(ran) })
	l.ring()
	l.mu.Unlock()
	select {
	case <-ran:
		return true
	case <-l.done:
		return false
	}
}

// stop ends run after the orders that came before it, and waits for that.
func (l *loop) stop() {
	l.mu.Lock()
	l.closed = true
	l.ring()
	l.mu.Unlock()
	<-l.done
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.bell)
}

// ring is called with mu held, and not after closed: later the bell's number
// may be that of another file, which the bytes would be written to.
func (l *loop) ring() {
	one := [8]byte{1}
	_, _ = unix.Write(l.bell, one[:]) // EAGAIN: it rings already
}

func (l *loop) obey() (ended bool) {
	l.mu.Lock()
	orders := l.orders
	l.orders = nil
	ended = l.closed
	l.mu.Unlock()
	for _, f := range orders {
		f()
	}
	return ended
}

type bellHandler struct{ *loop }

func (b bellHandler) ready(uint32) {
	var count [8]byte
	_, _ = unix.Read(b.bell, count[:])
}

// timer is one that is set.
type timer struct {
	at    time.Time
	f     func()
	index int // in the heap; -1 when it is not set
}

// after runs f once, d from when this turn began.
func (l *loop) after(d time.Duration, f func()) *timer {
	t := &timer{at: l.now.Add(d), f: f}
	heap.Push(&l.timers, t)
	return t
}

// cancel makes a timer not run. It may have run, or be nil.
func (l *loop) cancel(t *timer) {
	if t != nil && t.index >= 0 {
		heap.Remove(&l.timers, t.index)
	}
}

// every runs f each d.
func (l *loop) every(d time.Duration, f func()) {
	var again func()
	again = func() { f(); l.after(d, again) }
	l.after(d, again)
}

func (l *loop) expire() {
	for len(l.timers) > 0 && !l.timers[0].at.After(l.now) {
		heap.Pop(&l.timers).(*timer).f()
	}
}

type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

func (t *timers) Push(x any) {
	x.(*timer).index = len(*t)
	*t = append(*t, x.(*timer))
}

func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	last.index = -1
	return last
}
