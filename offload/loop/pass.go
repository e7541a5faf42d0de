package loop

import (
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/ring"
)

// Passer is a Handler of a socket whose messages go to another socket. Where the kernel has
// io_uring, the loop passes on the small ones itself, those of all sockets in two system calls.
// Without it, and for everything else, Ready is called.
type Passer interface {
	Handler
	// Passes reports whether the events mean only that there is a message to pass on, and to which
	// socket.
	Passes(events uint32) (to int, ok bool)
	// Passed reports what became of it.
	Passed(Message)
}

// Message is a message that the loop has received. N is its length, 0 at the end of file or when
// Err is set. Rest is the part that could not be sent, because of SendErr or, if that is 0, because
// the socket is full; it is valid during the call.
type Message struct {
	N            int
	Rest         []byte
	Err, SendErr unix.Errno
}

// MessageSize is the maximum size of a message, in bytes. More of a stream is another message.
const MessageSize = ring.BufferSize

// passing is a message in the buffer of the ring that has its index.
type passing struct {
	h  Passer
	to int
	Message
}

// pass receives the messages and queues their sends. It returns the events that it did not handle.
// The sends are made with the next wait, or before anything else runs.
func (l *Loop) pass(events []unix.EpollEvent) []unix.EpollEvent {
	if l.ring == nil {
		return events
	}
	rest := events[:0]
	for _, ev := range events {
		if !l.receive(ev) {
			rest = append(rest, ev)
		}
	}
	if len(l.passing) > 0 && (!l.send() || len(rest) > 0) {
		l.flush()
	}
	return rest
}

func (l *Loop) receive(ev unix.EpollEvent) bool {
	s := &l.slots[ev.Fd]
	h, ok := s.h.(Passer)
	if !ok || s.generation != uint32(ev.Pad) {
		return false
	}
	to, ok := h.Passes(ev.Events)
	if ok {
		l.ring.Receive(int(ev.Fd), len(l.passing))
		l.passing = append(l.passing, passing{h: h, to: to})
	}
	return ok
}

// send queues the sends. It returns false if a receive failed.
func (l *Loop) send() bool {
	all := l.ring.Submit() == nil
	l.take()
	for i := range l.passing {
		if p := &l.passing[i]; p.N > 0 {
			l.ring.Send(p.to, i, p.N)
		} else {
			all = false
		}
	}
	return all
}

// flush makes the queued sends.
func (l *Loop) flush() {
	if len(l.passing) > 0 {
		_ = l.ring.Submit() // the next wait reports an error
		l.results()
	}
}

// results reports the messages, whose sends have been made, and returns the events of a wait.
func (l *Loop) results() []unix.EpollEvent {
	events := l.take()
	for i := range l.passing {
		p := &l.passing[i]
		p.h.Passed(p.Message)
	}
	clear(l.passing)
	l.passing = l.passing[:0]
	return events
}

// take handles the results of calls, and returns the events of a wait.
func (l *Loop) take() (events []unix.EpollEvent) {
	for r := l.ring.Next(); r.Kind != ring.None; r = l.ring.Next() {
		switch r.Kind {
		case ring.Events:
			events = l.ring.Events(r.N)
		case ring.Received:
			p := &l.passing[r.Buffer]
			p.N, p.Err = r.N, r.Err
		case ring.Sent:
			p := &l.passing[r.Buffer]
			p.SendErr, p.Rest = r.Err, l.ring.Buffer(r.Buffer)[r.N:p.N]
		}
	}
	return events
}
