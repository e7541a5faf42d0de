package offload

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/raw"
)

// The sides of a flow, and the index of the direction that reads from one.
const (
	host = 0
	wire = 1
)

// flow joins two connections. Payload, FIN, urgent data and errors of one side are passed to the
// other, in the same order.
//
//	        way[host]  splice → pipe → splice
//	host side ───────────────────────────────▶ wire side
//	          ◀───────────────────────────────
//	        way[wire]
type flow struct {
	t       *tcp
	fd      [2]int
	way     [2]way
	dead    [2]bool // this side's connection has ended with an error
	calm    [2]bool // this side is watched with calmEvents
	still   int     // consecutive turns that ended with both pipes empty
	busy    bool    // a turn is scheduled
	gone    bool
	inbound bool          // opened from the wire: a client of a published service
	taken   int           // bytes read from the host since its window was last checked
	grace   *loop.Timer   // drainLimit: resets the flow when it expires
	pause   *loop.Timer   // until the next retry
	look    time.Duration // current interval between checks for unacknowledged bytes
}

// way is one direction.
type way struct {
	pipe *pipe // nil when empty
	end  bool  // end of file was read
	done bool  // end of file was passed on

	urgent bool // urgent data has been announced
	last   bool // FIN was received with no urgent data before it
	large  bool // the last message filled its buffer: splice moves more at once
}

// drainLimit is the maximum time for payload received before an error to reach the other side.
const drainLimit = time.Minute

// firstLook and lastLook bound the interval between checks that it has.
const firstLook, lastLook = 10 * time.Millisecond, time.Second

// join makes a flow of two sockets and owns them. The wire's socket, or that of a published
// service, is in the loop already. broken means that the error of the wire's socket has been read
// from it already.
func (t *tcp) join(hostFD, wireFD int, broken bool) {
	t.add(&flow{t: t, fd: [2]int{hostFD, wireFD}, dead: [2]bool{wire: broken}})
}

func (t *tcp) add(f *flow) {
	t.flows[f] = true
	if f.inbound {
		t.inbound++
	}
	for s, fd := range f.fd {
		f.calm[s] = true
		if err := t.loop.Watch(fd, calmEvents, side{f, s}); err != nil {
			t.drop("no memory")
			f.reset()
			return
		}
	}
	if f.dead[wire] {
		f.advance()
	} // else the loop reports what is pending, usually nothing
}

// Events of a side. A side is normally calm: level-triggered. One read per event is enough then,
// because the kernel reports what is left; most connections exchange a few bytes at a time. When a
// side is blocked, or at the end, a level-triggered event would repeat, so both sides are
// edge-triggered: every splice(2) is repeated until EAGAIN.
const (
	calmEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP
	flowEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET

	// calmAfter is how many consecutive turns must end unblocked before both sides are calm again.
	calmAfter = 8
)

// side is one socket of a flow in the loop.
type side struct {
	*flow
	s int
}

// Ready implements loop.Handler.
func (s side) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 && pendingError(s.fd[s.s]) != nil {
		s.dead[s.s] = true
	}
	w := &s.way[s.s]
	w.urgent = w.urgent || events&unix.EPOLLPRI != 0
	w.last = w.last || events&unix.EPOLLRDHUP != 0 && !w.urgent
	calm := s.calm[s.s]
	if calm && events == unix.EPOLLIN && s.hop(s.s) {
		return
	}
	const over = unix.EPOLLERR | unix.EPOLLHUP
	s.turn(s.s, events&(unix.EPOLLIN|unix.EPOLLRDHUP|over) != 0,
		events&(unix.EPOLLOUT|over) != 0 && s.way[1-s.s].pipe != nil)
	if calm && events != unix.EPOLLIN {
		s.watch(s.s, false) // a persistent condition would be reported again and again
	}
}

// Passes implements loop.Passer.
func (s side) Passes(events uint32) (to int, ok bool) {
	w := &s.way[s.s]
	ok = events == unix.EPOLLIN && s.calm[s.s] && !s.gone && !s.dead[1-s.s] &&
		w.pipe == nil && !w.end && !w.urgent && !w.large
	return s.fd[1-s.s], ok
}

// Passed implements loop.Passer.
func (s side) Passed(m loop.Message) {
	f, w := s.flow, &s.way[s.s]
	if n := m.N - len(m.Rest); n > 0 {
		f.t.moved(s.s, n)
		if s.s == host && !f.gone {
			f.took(n)
		}
	}
	if f.gone {
		return
	}
	w.large = m.N == loop.MessageSize
	switch {
	case len(m.Rest) > 0:
		f.keep(s.s, m)
	case m.N > 0, m.Err == unix.EAGAIN, m.Err == unix.EINTR:
		return
	case shortage(m.Err):
		f.retry(20 * time.Millisecond)
	case m.Err != 0:
		w.end, f.dead[s.s] = true, true
	}
	f.turn(s.s, true, false)
}

// keep puts what could not be sent into a pipe.
func (f *flow) keep(s int, m loop.Message) {
	if m.SendErr != 0 && m.SendErr != unix.EAGAIN && !shortage(m.SendErr) {
		f.dead[1-s] = true
		return
	}
	p, err := f.t.pipes.get()
	if err == nil {
		var n int
		n, err = raw.Write(p.w, m.Rest) // all of it: an empty pipe has room
		f.way[s].pipe = p
		f.t.pipes.filled(p, max(n, 0))
	}
	if err != nil {
		f.t.drop("no descriptor or memory")
		f.reset()
	}
}

// hop moves the payload of a calm side to the other. It returns false when a full turn is needed.
func (f *flow) hop(s int) bool {
	if w := &f.way[s]; !f.gone && w.pipe == nil && !f.dead[1-s] && f.fill(s) {
		for w.pipe != nil && f.drain(s) > 0 {
		}
		return w.pipe == nil
	}
	return f.gone
}

// rest ends a turn: it selects level- or edge-triggered events for each side.
func (f *flow) rest(more bool) {
	stuck := more || f.way[host].pipe != nil || f.way[wire].pipe != nil || f.pause.Set()
	if f.still++; stuck {
		f.still = 0
	}
	for s := range f.fd {
		w := &f.way[s]
		can := !stuck && !w.end && !w.urgent && !f.dead[s]
		f.watch(s, can && (f.calm[s] || f.still >= calmAfter))
	}
}

// watch makes side s level-triggered (calm) or edge-triggered.
func (f *flow) watch(s int, calm bool) {
	if f.gone || f.calm[s] == calm {
		return
	}
	f.calm[s] = calm
	events := uint32(flowEvents)
	if calm {
		events = calmEvents
	}
	_ = f.t.loop.Modify(f.fd[s], events) // fails for a closed descriptor only
}

// advance moves payload in both directions.
func (f *flow) advance() { f.turn(host, true, true) }

// turn moves payload away from side s, towards it, or both, and ends the flow when both directions
// are done. A readable socket is nearly always writable too: without the distinction half of all
// system calls would return EAGAIN.
func (f *flow) turn(s int, away, towards bool) {
	if f.gone {
		return
	}
	more := away && f.move(s)
	if towards && f.move(1-s) {
		more = true
	}
	f.settle()
	f.rest(more)
	if more && !f.gone && !f.busy {
		f.busy = true
		f.t.loop.Soon(func() { f.busy = false; f.advance() })
	}
}

// move moves payload away from side s until a socket would block or fairShare is used up. It
// returns true when the share ended it and more may be pending.
func (f *flow) move(s int) (more bool) {
	w := &f.way[s]
	for share := fairShare; share > 0; {
		if w.done || f.dead[1-s] {
			break
		}
		if w.pipe == nil && !w.end && !f.fill(s) && !w.end {
			return false
		}
		if w.pipe != nil {
			n := f.drain(s)
			share -= n
			if n == 0 {
				return false
			}
			continue
		}
		f.passEnd(s)
	}
	return !w.done && !f.dead[1-s]
}

// fill reads payload from side s into its pipe. It reports whether there was any.
func (f *flow) fill(s int) bool {
	t, w := f.t, &f.way[s]
	p, err := t.pipes.get()
	if err != nil {
		t.drop("no descriptor or memory")
		f.retry(100 * time.Millisecond)
		return false
	}
	for {
		n, err := raw.Splice(f.fd[s], p.w, t.pipes.portion())
		switch {
		case n > 0:
			w.large = n >= loop.MessageSize
			t.pipes.filled(p, n)
			w.pipe = p
			return true
		case err == nil && w.last: // end of file, not the urgent mark
			w.end = true
		case (err == nil || w.urgent && errors.Is(err, unix.EAGAIN)) && f.passUrgent(s, p):
			if w.pipe != nil {
				return true
			}
			continue
		case err == nil:
			w.end = true
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
		case shortage(err):
			f.retry(20 * time.Millisecond)
		default:
			w.end, f.dead[s] = true, true
		}
		t.pipes.put(p)
		return false
	}
}

// passUrgent moves one urgent byte. splice(2) stops before it with EAGAIN or 0, as at the end of
// file; with SO_OOBINLINE it is the next byte read. When it cannot be sent as urgent it is sent as
// an ordinary byte (RFC 6093 advises programs to read it that way).
func (f *flow) passUrgent(s int, p *pipe) bool {
	if at, err := raw.IoctlInt(f.fd[s], siocAtMark); err != nil || at == 0 {
		return false
	}
	var b [1]byte
	if n, err := raw.Read(f.fd[s], b[:]); err != nil || n != 1 {
		return false // announced, but not received yet
	}
	f.way[s].urgent = false
	err := raw.SendTo(f.fd[1-s], b[:], unix.MSG_OOB, nil)
	if err == nil {
		f.t.moved(s, 1)
		return true
	}
	if n, err := raw.Write(p.w, b[:]); err == nil && n == 1 {
		f.t.pipes.filled(p, 1)
		f.way[s].pipe = p
	}
	return true
}

// siocAtMark is SIOCATMARK of linux/sockios.h: the next byte is urgent.
const siocAtMark = 0x8905

// drain writes the pipe of side s to the other side. It returns the number of bytes moved; 0 when
// the socket is full or closed.
func (f *flow) drain(s int) int {
	t, w := f.t, &f.way[s]
	for {
		n, err := raw.Splice(w.pipe.r, f.fd[1-s], w.pipe.n)
		switch {
		case n > 0:
			t.pipes.drained(w.pipe, n)
			t.moved(s, n)
			if s == host {
				f.took(n)
			}
			if w.pipe.n == 0 {
				t.pipes.put(w.pipe)
				w.pipe = nil
			}
			return n
		case errors.Is(err, unix.EINTR):
			continue
		case shortage(err):
			f.retry(20 * time.Millisecond)
		case err != nil && !errors.Is(err, unix.EAGAIN):
			f.dead[1-s] = true
		}
		return 0
	}
}

// took narrows the host's receive buffer once per linkBuffer bytes read: the kernel grows it as it
// is read.
func (f *flow) took(n int) {
	if f.taken += n; f.taken >= linkBuffer {
		f.taken = 0
		narrow(f.fd[host], f.t.wide)
	}
}

// moved counts payload that came from side s.
func (t *tcp) moved(s, n int) {
	if s == host {
		t.count.FromHost += uint64(n)
	} else {
		t.count.ToHost += uint64(n)
	}
}

// shortage reports a temporary lack of memory. No event announces its end.
func shortage(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS)
}

// retry schedules advance after a pause. A pending retry is kept.
func (f *flow) retry(pause time.Duration) {
	if !f.pause.Set() {
		f.pause = f.t.loop.After(pause, f.advance)
	}
}

// passEnd passes the FIN of side s to the other side. settle passes on an end caused by an error.
func (f *flow) passEnd(s int) {
	f.way[s].done = true
	if f.dead[s] || f.way[1-s].done {
		return // settle closes both, with RST or with FIN
	}
	if err := raw.Shutdown(f.fd[1-s], unix.SHUT_WR); err != nil {
		f.dead[1-s] = true
	}
}

// settle ends the flow with FIN when both directions are done, or with RST after an error, once
// the payload received before the error has been delivered.
func (f *flow) settle() {
	switch {
	case f.dead[host] && f.dead[wire]:
		f.reset()
	case f.dead[host]:
		f.settleError(host)
	case f.dead[wire]:
		f.settleError(wire)
	case f.way[host].done && f.way[wire].done:
		f.finish()
	}
}

// settleError resets the live side once it has acknowledged everything that the dead side sent, so
// that its program can still read it.
func (f *flow) settleError(dead int) {
	if f.grace == nil {
		f.grace = f.t.loop.After(drainLimit, f.reset)
	}
	if !f.way[dead].done {
		f.move(dead) // the error may have come after its turn
	}
	if !f.way[dead].done {
		return
	}
	unsent, err := raw.IoctlInt(f.fd[1-dead], unix.TIOCOUTQ)
	if err == nil && unsent > 0 {
		// No event reports that all is acknowledged. The interval doubles, because many flows may
		// wait for one stalled wire.
		f.look = min(max(2*f.look, firstLook), lastLook)
		f.retry(f.look)
		return
	}
	f.reset()
}

// reset ends both connections with RST.
func (f *flow) reset() {
	if f.gone {
		return
	}
	f.t.count.Reset++
	f.close()
}

// finish closes both connections with FIN. The kernel delivers what is in their send buffers.
func (f *flow) finish() {
	for _, fd := range f.fd {
		f.t.loop.SetLinger(fd, false)
	}
	f.close()
}

func (f *flow) close() {
	f.gone = true
	f.t.loop.Cancel(f.grace)
	f.t.loop.Cancel(f.pause)
	for s, fd := range f.fd {
		f.t.loop.CloseLater(fd)
		if p := f.way[s].pipe; p != nil {
			f.t.pipes.put(p)
			f.way[s].pipe = nil
		}
	}
	delete(f.t.flows, f)
	if f.inbound {
		f.t.inbound--
	}
}
