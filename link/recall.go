package link

import (
	"time"

	"golang.org/x/sys/unix"
)

// A card can sleep through a call. User-Mode Linux (7.3, os_idle_sleep in
// arch/um/os-Linux/time.c) blocks SIGALRM between its last check for work and its
// sleep, but not SIGIO. A signal that arrives in between is marked as pending, and
// the card sleeps until any other signal arrives, for up to 20 s. In 3 s of forwarded
// TCP a card went to sleep 5842 times, 35 of them with a signal just before, and woke
// to find the calls of two to four rings unread.
//
// So the pump repeats a call that the driver does not act on, after a pause that
// doubles each time up to mostPause. A driver that does not need calls looks the same,
// so the repetition must end.
const (
	signalPause  = time.Millisecond      // before the first repetition, where calls are signals
	eventfdPause = 32 * time.Millisecond // where calls are eventfds: no driver is known to lose one
	mostPause    = 512 * time.Millisecond
	lookAgain    = 64 // rounds of a busy pump between two checks
)

// kindOf returns the file type of a call descriptor: S_IFSOCK, S_IFIFO, or 0 for an eventfd.
func kindOf(call int) uint32 {
	var st unix.Stat_t
	if err := unix.Fstat(call, &st); err != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

// pauseFor returns the pause before the first repetition. A driver that is called by signals passes
// a pipe or a socket, because an eventfd raises none.
func pauseFor(kind uint32) time.Duration {
	if kind != 0 {
		return signalPause
	}
	return eventfdPause
}

// owed is the state of a call that the driver has not yet acted on.
type owed struct {
	answer bool
	pause  time.Duration // before the next repetition; 0 before the first check
	due    time.Time     // of the next repetition
}

// recall repeats the calls that were not acted on. It returns the time in ms
// after which to check again, -1 if no call is pending. ago is the least time
// since the last call.
func (q *queue) recall(ago time.Duration) (ms int) {
	ms = -1
	for _, e := range q.all {
		if left, waits := e.recall(ago); waits && (ms < 0 || left < ms) {
			ms = left
		}
	}
	return ms
}

func (e *virtqueue) recall(ago time.Duration) (ms int, waits bool) {
	o := &e.owed
	if !o.answer || !e.running() {
		return 0, false
	}
	if o.pause > mostPause || !e.ring.Unanswered() {
		o.answer = false
		return 0, false
	}
	now := time.Now()
	if o.pause == 0 {
		o.pause, o.due = e.pause, now.Add(e.pause-ago)
	}
	if !now.Before(o.due) {
		pause := 2 * o.pause
		e.signal()
		count(&e.ctr.recalls, 1)
		*o = owed{answer: true, pause: pause, due: now.Add(pause)}
	}
	return int(o.due.Sub(now)/time.Millisecond) + 1, true
}
