package link

import "time"

// A card can miss a call. A User-Mode Linux card (7.3) under TCP that it forwards
// between two devices did so more than once a second: it had read the call's pipe,
// for all of its devices, and yet slept in its idle loop with the rings untouched,
// for up to two seconds and more, until any signal woke it. In each of 60 cases that
// were looked at, one more write was that signal. Why it falls asleep is not known.
//
// So a call that the driver does not act on is made once more, after recallAfter
// and then after twice as long each time, mostRecalls times at most: a driver
// that has no more use for calls looks the same and must not be called for ever.
const (
	recallAfter = 2 * time.Millisecond
	mostRecalls = 9
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
	for _, e := range q.ends() {
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
