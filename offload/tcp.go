package offload

import (
	"container/list"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/nfqueue"
	"github.com/toe-project/toe/offload/raw"
)

// Table sizes. An entry that does not fit is dropped and counted; its sender retransmits.
const (
	// maxOpening is the maximum number of connections waiting for a remote. The oldest is evicted
	// when the table is full: a scan of silent addresses must not block other connections.
	maxOpening = 4096
	// maxDialing is the maximum number of clients of published services waiting for the host.
	maxDialing = 4096
	// flowCost is the memory budgeted for a connection, in bytes: two idle sockets, and some
	// payload in flight for the busy ones.
	flowCost = 16 << 10
)

// verdict decides on held SYNs: an *nfqueue.Queue, or a fake in tests.
type verdict interface {
	Accept(id, mark uint32)
	Drop(id uint32)
}

// tcp is endpoint mode for TCP connections.
type tcp struct {
	loop      *loop.Loop
	conf      Config
	logf      func(string, ...any)
	queue     *nfqueue.Queue
	verdict   verdict
	listeners []int
	published map[Publish][]int

	opening  map[pair]*opening // requested by the host
	answered int               // entries of opening whose remote has answered, not accepted yet
	recent   map[pair]uint32   // accepted since the queue was empty: sequence number of the SYN
	oldest   *list.List        // of *opening
	dialing  map[*dialing]bool // requested by the wire
	flows    map[*flow]bool
	inbound  int // flows opened from the wire
	maxFlows int
	pipes    pipes

	wide       uint32 // bytes of memory that narrow leaves to a host connection's receive buffer
	congestion string // TCP_CONGESTION for sockets towards the wire; empty: the kernel's default

	// Cache of ofHost, and the time of its last update.
	linkNets   []*net.IPNet
	linkNetsAt time.Time

	count TCPStats
}

func newTCP(l *loop.Loop, conf Config, logf func(string, ...any)) (*tcp, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("sysinfo: %w", err)
	}
	memory := int(uint64(info.Totalram) * uint64(info.Unit))
	t := &tcp{
		loop: l, conf: conf, logf: logf,
		published: map[Publish][]int{},
		opening:   map[pair]*opening{}, recent: map[pair]uint32{}, oldest: list.New(), dialing: map[*dialing]bool{}, flows: map[*flow]bool{},
		maxFlows: max(1024, memory/flowCost),
		pipes:    pipes{room: memory / 16},
		wide:     largestReceive() / 2,
	}
	t.count.Drops = map[string]uint64{}
	if err := t.open(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *tcp) open() (err error) {
	t.queue, err = nfqueue.Open(queueNumber, t.handleSYN, func() { t.drop("queue full") })
	if err != nil {
		return err
	}
	t.verdict = t.queue
	t.queue.Tell = t.loop.Tell
	t.queue.Empty = func() { clear(t.recent) }
	if err := t.loop.AddLevel(t.queue.FD(), t.queue); err != nil {
		return err
	}
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		fd, err := listen(netip.AddrPortFrom(addr, proxyPort), hostSide(transparent(familyOf(addr)))...)
		if err != nil {
			if addr.Is6() && (noIPv6(err) || errors.Is(err, unix.EADDRNOTAVAIL)) {
				continue
			}
			return err
		}
		t.listeners = append(t.listeners, fd)
		if err := t.loop.AddLevel(fd, acceptor{t, fd, t.accepted, func() bool { return t.answered > 0 }}); err != nil {
			return err
		}
	}
	return t.configure(t.conf)
}

// configure applies a configuration: published services, and the source address and congestion
// control of new connections.
func (t *tcp) configure(conf Config) error {
	control, told, err := congestion(conf.Congestion)
	if err != nil {
		return err
	}
	want := map[Publish]bool{}
	for _, p := range conf.Publish {
		if p.Protocol != "tcp" {
			continue
		}
		want[p] = true
	}
	for p, fds := range t.published {
		if !want[p] {
			t.dropAll(fds)
			delete(t.published, p)
		}
	}
	for p := range want {
		if t.published[p] != nil {
			continue
		}
		if err := t.publish(p); err != nil {
			return err
		}
	}
	for _, fds := range t.published {
		for _, fd := range fds {
			if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, control); err != nil {
				return fmt.Errorf("congestion control %q: %w", control, err)
			}
		}
	}
	t.conf, t.linkNets, t.congestion = conf, nil, told
	return nil
}

func (t *tcp) dropAll(fds []int) {
	for _, fd := range fds {
		t.loop.Close(fd)
	}
}

func (t *tcp) stats() TCPStats {
	s := t.count
	s.Drops = maps.Clone(t.count.Drops)
	s.Open = uint64(len(t.flows))
	s.Opening = uint64(len(t.opening) + len(t.dialing))
	return s
}

func (t *tcp) drop(cause string) { t.count.Drops[cause]++ }

// full reports whether the table is full, and counts a drop if it is.
func (t *tcp) full() bool {
	if len(t.flows) < t.maxFlows {
		return false
	}
	t.drop("table full")
	return true
}

// fullForWire is full for clients of published services. They can use three quarters of the table,
// so that the wire cannot keep the host from connecting.
func (t *tcp) fullForWire() bool {
	switch {
	case len(t.dialing) >= maxDialing:
		t.drop("too many clients waiting")
	case t.inbound+len(t.dialing) >= t.maxFlows/4*3:
		t.drop("too many clients")
	default:
		return t.full()
	}
	return true
}

func (t *tcp) close() {
	for f := range t.flows {
		f.reset()
	}
	for _, o := range t.opening {
		o.end()
	}
	for m := range t.dialing {
		m.end()
	}
	t.dropAll(t.listeners)
	t.listeners = nil
	for p, fds := range t.published {
		t.dropAll(fds)
		delete(t.published, p)
	}
	if t.queue != nil {
		t.loop.Close(t.queue.FD())
		t.queue = nil
	}
	t.pipes.close()
}

// acceptor is a listener in the loop.
type acceptor struct {
	t    *tcp
	fd   int
	take func(fd int, peer netip.AddrPort)
	more func() bool // reports whether another connection is expected; nil: never
}

// shortagePause is how long a listener pauses when descriptors or memory run out.
const shortagePause = 100 * time.Millisecond

// acceptTurn is the maximum number of connections accepted in a turn. It exceeds the number of SYNs
// read in a turn: otherwise answered connections would pile up behind new ones.
const acceptTurn = 4 * nfqueue.BatchSize

// Ready accepts a connection, and others while more reports that they are expected. The listener is
// level-triggered, so connections left over are reported again.
func (a acceptor) Ready(uint32) {
	for range acceptTurn {
		if !a.one() || a.more == nil || !a.more() {
			return
		}
	}
}

func (a acceptor) one() (more bool) {
	fd, peer, err := raw.Accept(a.fd)
	switch {
	case err == nil:
		a.take(fd, peer)
		return true
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		a.t.drop("no descriptor or memory")
		a.t.loop.Pause(a.fd, shortagePause)
	}
	return false
}
