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

// flow is two connections joined: whatever happens to one of them happens to
// the other, in the same order.
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
	still   int     // turns that ended with nothing under way, since one did not
	busy    bool    // a turn is asked for
	gone    bool
	inbound bool          // begun by the wire: a client of a published service
	taken   int           // from the host, since its window was looked at
	grace   *loop.Timer   // ends what cannot be delivered
	pause   *loop.Timer   // until another try
	look    time.Duration // how long until the next look at what is not acknowledged
}

// way is one direction.
type way struct {
	pipe *pipe // nil when nothing is under way
	end  bool  // the reader has met the end
	done bool  // and the end has been passed on

	urgent bool // urgent data has been announced
	last   bool // FIN has come, and no urgent data is in front of it
}

// drainLimit is how long payload that was there before an error may take to
// reach the side that the error is for.
const drainLimit = time.Minute

// firstLook and lastLook are the pauses between looks whether it has.
const firstLook, lastLook = 10 * time.Millisecond, time.Second

// join makes one flow of two sockets, and owns them. The wire's socket, or
// that of a published service, is in the loop already. broken: the error of the
// wire's socket has been taken from it already.
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
	} // else the loop says what is there: nothing, most often
}

// How a side is watched: as a rule calmly, level triggered. Then one look at what it
// has is enough, for the kernel tells what was left; most conversations
// are a few bytes there and a few back, with never more than that to do.
// When a side does not take what there is, or at the end, it would tell the
// same again and again, so that both are watched by edges: every splice(2)
// goes on until EAGAIN.
const (
	calmEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP
	flowEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET

	// calmAfter turns that nothing stood in the way of both are calm again.
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
		s.watch(s.s, false) // else a condition that stays would be told again and again
	}
}

// hop carries what a calm side has to the other. It reports false when there
// is more to it than that.
func (f *flow) hop(s int) bool {
	if w := &f.way[s]; !f.gone && w.pipe == nil && !f.dead[1-s] && f.fill(s) {
		for w.pipe != nil && f.drain(s) > 0 {
		}
		return w.pipe == nil
	}
	return f.gone
}

// rest is the end of a turn. It watches the sides as they have to be.
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

// watch watches side s calmly, or by edges.
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

// advance moves what can be moved, both ways.
func (f *flow) advance() { f.turn(host, true, true) }

// turn moves what can be moved away from side s, towards it, or both, and
// ends the flow when there is nothing more to come. A socket that has data is
// nearly always writable too: without the distinction half of all system
// calls would be in vain.
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

// move carries payload away from side s, until one of the sockets would
// block or the share is used up; then it returns true.
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

// fill takes payload from side s. It reports whether there is some.
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
			t.pipes.filled(p, n)
			w.pipe = p
			return true
		case err == nil && w.last: // the end, and not the mark
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

// passUrgent carries one urgent byte. Before it splice(2) stops as if there
// were nothing more, or the end; it is the byte that is read next, because the
// socket has SO_OOBINLINE. When there is no room for it as what it is, it goes
// on as an ordinary one (RFC 6093 advises that much to programs).
func (f *flow) passUrgent(s int, p *pipe) bool {
	if at, err := raw.IoctlInt(f.fd[s], siocAtMark); err != nil || at == 0 {
		return false
	}
	var b [1]byte
	if n, err := raw.Read(f.fd[s], b[:]); err != nil || n != 1 {
		return false // it is announced, and not here yet
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

// drain gives payload to the other side. It returns how much was taken; 0
// when there is no room, or no reader any more.
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

// took has the host's window looked at, often enough for it not to get out of
// hand: the kernel lets it grow as it is read.
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

// shortage is what passes by itself, with no event to say so.
func shortage(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS)
}

// retry advances after a pause, once however often it is called.
func (f *flow) retry(pause time.Duration) {
	if !f.pause.Set() {
		f.pause = f.t.loop.After(pause, f.advance)
	}
}

// passEnd gives the end of what side s sends to the other side: FIN for FIN.
// The end that an error makes is passed on by settle.
func (f *flow) passEnd(s int) {
	f.way[s].done = true
	if f.dead[s] || f.way[1-s].done {
		return // settle closes both, with RST or with FIN
	}
	if err := raw.Shutdown(f.fd[1-s], unix.SHUT_WR); err != nil {
		f.dead[1-s] = true
	}
}

// settle ends the flow when both ways are at their end, in order; or after an
// error, when what came before the error has been delivered.
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

// settleError resets the side that lives when it has everything that the
// dead side sent: what a program was promised it can still read.
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
		// No event says when all is acknowledged. Less and less often: many may
		// wait for one wire that stands still.
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

// finish ends both connections in order. What is in their send buffers the
// kernel delivers.
func (f *flow) finish() {
	for _, fd := range f.fd {
		_ = linger(fd, false)
	}
	f.close()
}

func (f *flow) close() {
	f.gone = true
	f.t.loop.Cancel(f.grace)
	f.t.loop.Cancel(f.pause)
	for s, fd := range f.fd {
		f.t.loop.Close(fd)
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
