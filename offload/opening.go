package offload

import (
	"container/list"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/nfqueue"
	"github.com/toe-project/toe/offload/raw"
)

// acceptLimit is the maximum time from SYN-ACK to ACK. The host is one hop away.
const acceptLimit = 10 * time.Second

// opening is a connection requested by the host. Its SYN is held while the card connects to the
// remote. When the remote accepts, the SYN is released to the listener, and the accepted socket is
// matched to its opening by the pair.
type opening struct {
	t         *tcp
	pair      pair
	seq       uint32 // of the newest SYN
	class     uint8  // of the newest SYN
	fd        int    // towards the wire
	held      uint32
	holds     bool
	connected bool
	broken    bool // reset by the remote after it had accepted
	limit     *loop.Timer
	age       *list.Element
}

// handleSYN is called for each SYN of the host.
func (t *tcp) handleSYN(p nfqueue.Packet) {
	s, ok := parseSegment(p.Head)
	if !ok {
		t.drop("not understood")
		t.verdict.Drop(p.ID)
		return
	}
	if o := t.opening[s.pair]; o != nil {
		o.repeated(s, p.ID)
		return
	}
	if first, ok := t.recent[s.pair]; ok && first == s.seq {
		// A retransmission that was queued before the handshake ended.
		t.verdict.Drop(p.ID)
		return
	}
	if t.full() || t.allAnswered() {
		t.verdict.Drop(p.ID)
		return
	}
	t.begin(s, p.ID)
}

// allAnswered reports whether the table is full and no attempt can be evicted, and counts a drop if
// so. Answered attempts are not evicted: the host's kernel has got their SYN-ACK and would see a
// reset.
func (t *tcp) allAnswered() bool {
	if len(t.opening) < maxOpening || !t.oldest.Front().Value.(*opening).connected {
		return false
	}
	t.drop("too many being opened")
	return true
}

func (t *tcp) begin(s segment, held uint32) {
	o := &opening{t: t, pair: s.pair, seq: s.seq, class: s.class, fd: -1, held: held, holds: true}
	var source netip.AddrPort
	if t.conf.Preserve {
		source = s.from
	}
	var options []option
	if s.class != 0 {
		options = classOptions(s)
	}
	fd, err := dial(t.loop, source, s.to, options...)
	if err != nil {
		o.reject(err)
		return
	}
	o.fd = fd
	if t.congestion != "" { // does not fail: the kernel accepted it in configure
		_ = unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, t.congestion)
	}
	t.opening[s.pair] = o
	o.age = t.oldest.PushBack(o)
	if len(t.opening) > maxOpening {
		t.drop("gave up for a newer one")
		t.oldest.Front().Value.(*opening).end()
	}
	// Events after the answer are for the flow, which replaces this handler with Watch.
	if err := t.loop.Add(fd, unix.EPOLLOUT, o); err != nil {
		t.drop("no memory")
		o.end()
	}
}

// classOptions returns the options that copy the host's traffic class to the wire.
func classOptions(s segment) []option {
	if s.to.Addr().Is4() {
		return []option{{unix.SOL_IP, unix.IP_TOS, int(s.class)}}
	}
	return []option{{unix.SOL_IPV6, unix.IPV6_TCLASS, int(s.class)}}
}

// repeated replaces the held SYN with a newer one. A host that gave up and retries from the same
// port sends a new sequence number, and possibly another class; those of the newest SYN are kept.
func (o *opening) repeated(s segment, id uint32) {
	if o.holds {
		o.t.verdict.Drop(o.held)
	}
	if s.class != o.class {
		o.class = s.class
		for _, c := range classOptions(s) { // best effort, as without the card
			_ = raw.Setsockopt(o.fd, c.level, c.name, c.value)
		}
	}
	o.seq, o.held, o.holds = s.seq, id, true
	if o.connected {
		o.release(markOpen)
	}
}

func (o *opening) release(mark uint32) {
	if o.holds {
		o.t.verdict.Accept(o.held, mark)
		o.holds = false
	}
}

// Ready handles the remote's answer. It implements loop.Handler.
func (o *opening) Ready(events uint32) {
	if o.connected || events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return // later events are for the flow
	}
	var err error
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		err = pendingError(o.fd)
	}
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		o.broken = true // after it had accepted: a reset before that gives ECONNREFUSED
	case err != nil:
		o.reject(err)
		return
	}
	o.connected = true
	o.t.answered++
	o.t.oldest.MoveToBack(o.age) // unanswered attempts are evicted first
	o.limit = o.t.loop.After(acceptLimit, o.expire)
	o.release(markOpen)
}

// expire ends an attempt whose handshake the host did not complete within acceptLimit.
func (o *opening) expire() {
	o.t.drop("host went away while opening")
	o.end()
}

// reject reports a failed attempt to the host as the remote or a router reported it to the card:
// with RST, ICMP, or silence.
func (o *opening) reject(err error) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		o.t.count.Refused++
		o.release(markReset)
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EHOSTDOWN):
		o.t.count.Unreachable++
		o.release(markHostUnreachable)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ENETDOWN):
		o.t.count.Unreachable++
		o.release(markNetUnreachable)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EPROTO):
		o.t.count.Unreachable++
		o.release(markProhibited)
	case errors.Is(err, unix.ETIMEDOUT):
		o.t.count.TimedOut++ // the remote was silent: the SYN is dropped, and the host times out too
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EADDRINUSE):
		o.t.drop("no free port")
	default:
		o.t.drop("no descriptor or memory")
	}
	o.end()
}

// end discards the attempt: its held SYN, its table entry and its socket.
func (o *opening) end() {
	if o.holds {
		o.t.verdict.Drop(o.held)
		o.holds = false
	}
	o.leave()
	if o.fd >= 0 {
		o.t.loop.CloseLater(o.fd)
		o.fd = -1
	}
}

func (o *opening) leave() {
	o.t.loop.Cancel(o.limit)
	if o.t.opening[o.pair] == o {
		delete(o.t.opening, o.pair)
		o.t.oldest.Remove(o.age)
		if o.connected {
			o.t.answered--
		}
	}
}

// accepted joins an accepted connection of the host to the one to its remote.
func (t *tcp) accepted(fd int, peer netip.AddrPort) {
	local, err := raw.Getsockname(fd)
	if err != nil {
		_ = raw.Close(fd)
		return
	}
	o := t.opening[pair{peer, local}]
	if o == nil || !o.connected {
		t.drop("not asked for")
		_ = raw.Close(fd)
		return
	}
	o.leave()
	t.remember(o)
	t.count.Opened++
	t.join(fd, o.fd, o.broken)
}

// remember keeps the sequence number of an accepted connection's SYN until the
// queue is empty.
func (t *tcp) remember(o *opening) {
	if len(t.recent) < t.maxFlows { // a bound: the queue may stay non-empty for a long time
		t.recent[o.pair] = o.seq
	}
}
