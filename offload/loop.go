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
	turns       []func() // what asked for another turn

	timers timers
	alarm  int       // a timerfd
	alert  time.Time // when it rings; zero: it does not
	start  time.Time
	clock  time.Time // see now; zero: not looked at in this turn

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
	l := &loop{epoll: epoll, bell: -1, alarm: -1, start: time.Now(), done: make(chan struct{})}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if l.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		l.close()
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	if err := errors.Join(l.add(l.bell, unix.EPOLLIN, bellHandler{l}), l.add(l.alarm, unix.EPOLLIN, alarmHandler{l})); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	for _, fd := range []int{l.epoll, l.bell, l.alarm} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// add watches fd, edge triggered, for events (EPOLLIN, EPOLLOUT, EPOLLRDHUP).
func (l *loop) add(fd int, events uint32, h handler) error {
	return l.register(fd, events|unix.EPOLLET, h)
}

// addLevel watches fd level triggered: for what is mostly one thing at a time,
// where the look for a second one would be a system call in vain.
func (l *loop) addLevel(fd int, h handler) error { return l.register(fd, unix.EPOLLIN, h) }

// register watches fd for events; with EPOLLET among them edge triggered.
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
	_ = l.change(fd, 0)
	l.after(d, func() {
		if s := l.slots[fd]; s.h != nil && s.generation == generation {
			_ = l.change(fd, unix.EPOLLIN)
		} // else closed meanwhile
	})
}

// watch is register for a descriptor that may be in the loop already: its handler
// changes, and hears of everything that is there.
func (l *loop) watch(fd int, events uint32, h handler) error {
	if fd >= len(l.slots) || l.slots[fd].h == nil {
		return l.register(fd, events, h)
	}
	l.slots[fd].h = h
	return l.change(fd, events)
}

// change makes other events of a descriptor known, and tells its handler of
// those that are there.
func (l *loop) change(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(l.slots[fd].generation)}
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
	l.arm()
	for {
		n, err := unix.EpollWait(l.epoll, events, l.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // the descriptor is gone: closed
		}
		l.clock = time.Time{}
		l.deliver(events[:max(n, 0)])
		if l.obey() {
			return
		}
		turns := l.turns
		l.turns = nil
		for _, f := range turns {
			f()
		}
		l.arm()
	}
}

func (l *loop) deliver(events []unix.EpollEvent) {
	for _, ev := range events {
		if s := l.slots[ev.Fd]; s.h != nil && s.generation == uint32(ev.Pad) {
			s.h.ready(ev.Events)
		}
	}
}

// patience is how long a wait may last, in milliseconds; the alarm ends it in
// time for the timers.
func (l *loop) patience() int {
	if len(l.turns) > 0 {
		return 0
	}
	return -1
}

// now is the time in this turn. On User-Mode Linux a look at the clock is a
// system call, and those are slow there: one a turn, where time.Now takes two,
// and none in a turn that does not ask.
func (l *loop) now() time.Time {
	if l.clock.IsZero() {
		l.clock = l.start.Add(time.Since(l.start))
	}
	return l.clock
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
	l.close()
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

// after runs f once, d from now.
func (l *loop) after(d time.Duration, f func()) *timer {
	t := &timer{at: l.now().Add(d), f: f}
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

type alarmHandler struct{ *loop }

func (a alarmHandler) ready(uint32) {
	var count [8]byte
	_, _ = unix.Read(a.alarm, count[:])
	a.alert = time.Time{}
	for len(a.timers) > 0 && !a.timers[0].at.After(a.now()) {
		heap.Pop(&a.timers).(*timer).f()
	}
}

// arm sets the alarm for the first timer. One that is cancelled leaves it as
// it is: it rings once in vain.
func (l *loop) arm() {
	if len(l.timers) == 0 || !l.alert.IsZero() && !l.timers[0].at.Before(l.alert) {
		return
	}
	l.alert = l.timers[0].at
	in := unix.NsecToTimespec(max(1, int64(l.alert.Sub(l.now())))) // 0 would switch it off
	_ = unix.TimerfdSettime(l.alarm, 0, &unix.ItimerSpec{Value: in}, nil)
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
