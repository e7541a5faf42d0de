package link

import "time"

// A call can be lost on the card's side of the call descriptor. User-Mode
// Linux 7.3 does so in two ways. Its idle loop (os_idle_sleep) does not block
// SIGIO between its last look and its sleep, and a signal that comes there is
// only marked as pending: the card then sleeps until its next timer. And its
// interrupt handler (sigio_reg_handler) runs softirqs amid its walk over a
// static array of edge-triggered events, which a nested signal overwrites: what
// stood there is not seen until the descriptor is written again. Seen were bulk
// transfers that stood still for up to 20 s.
//
// So a call that the driver does not act on is made once more, after recallAfter
// and then after twice as long each time, mostRecalls times at most: a driver
// that has no more use for calls looks the same and must not be called for ever.
const (
	recallAfter = 5 * time.Millisecond
	mostRecalls = 8
	lookAgain   = 64 // rounds of a busy pump between two looks
)

// owed is what the driver owes a ring: a sign that it has been called.
type owed struct {
	answer  bool
	repeats int
	due     time.Time // of the next repetition; zero until somebody looked
}

// recall repeats the calls that were not acted on, and returns the time in ms
// after which to look again, -1 for no need.
func (q *queue) recall() (ms int) {
	ms = -1
	for _, e := range []*end{&q.rx, &q.tx} {
		if left, waits := e.recall(); waits && (ms < 0 || left < ms) {
			ms = left
		}
	}
	return ms
}

func (e *end) recall() (ms int, waits bool) {
	o := &e.owed
	if !o.answer || !e.running() {
		return 0, false
	}
	if !e.ring.Unanswered() || o.repeats == mostRecalls {
		o.answer = false
		return 0, false
	}
	now := time.Now()
	switch {
	case o.due.IsZero():
		o.due = now.Add(recallAfter)
	case !now.Before(o.due):
		next := owed{answer: true, repeats: o.repeats + 1, due: now.Add(recallAfter << (o.repeats + 1))}
		e.signal()
		count(&e.ctr.recalls, 1)
		*o = next
	}
	return int(o.due.Sub(now)/time.Millisecond) + 1, true
}
