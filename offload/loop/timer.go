package loop

import (
	"container/heap"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// Timer runs a function once.
type Timer struct {
	at    time.Time
	f     func()
	index int // in the heap; -1 when not set
}

// Set reports whether the timer is pending. t may be nil.
func (t *Timer) Set() bool { return t != nil && t.index >= 0 }

// At returns the time at which the timer runs.
func (t *Timer) At() time.Time { return t.at }

// Now returns the time of this turn. On User-Mode Linux reading the clock is a system call, and
// system calls are slow there. Now reads the clock once per turn, on demand; time.Now takes two
// calls.
func (l *Loop) Now() time.Time {
	if l.clock.IsZero() {
		l.clock = l.start.Add(time.Since(l.start))
	}
	return l.clock
}

// After runs f once, d from now.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{at: l.Now().Add(d), f: f}
	heap.Push(&l.timers, t)
	return t
}

// Cancel stops a timer. t may have run already, or be nil.
func (l *Loop) Cancel(t *Timer) {
	if t.Set() {
		heap.Remove(&l.timers, t.index)
	}
}

// Every runs f repeatedly, with a pause of d between runs. The first run is d from now.
func (l *Loop) Every(d time.Duration, f func()) {
	var again func()
	again = func() { f(); l.After(d, again) }
	l.After(d, again)
}

type alarmHandler struct{ *Loop }

func (a alarmHandler) Ready(uint32) {
	var count [8]byte
	_, _ = raw.Read(a.alarm, count[:])
	a.alert = time.Time{}
	for len(a.timers) > 0 && !a.timers[0].at.After(a.Now()) {
		heap.Pop(&a.timers).(*Timer).f()
	}
}

// arm sets the alarm for the first timer. Cancel does not rearm it: the alarm may then expire once
// with no timer due.
func (l *Loop) arm() {
	if len(l.timers) == 0 || !l.alert.IsZero() && !l.timers[0].at.Before(l.alert) {
		return
	}
	l.alert = l.timers[0].at
	in := unix.NsecToTimespec(max(1, int64(l.alert.Sub(l.Now())))) // 0 would disarm it
	_ = raw.TimerfdSettime(l.alarm, &unix.ItimerSpec{Value: in})
}

// timers is a heap ordered by time.
type timers []*Timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

func (t *timers) Push(x any) {
	x.(*Timer).index = len(*t)
	*t = append(*t, x.(*Timer))
}

func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	last.index = -1
	return last
}
