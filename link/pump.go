package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
	"github.com/toe-project/toe/link/vring"
)

// pump is the process that copies packets. It holds the host's end of a device and the card's
// memory, and nothing else. It keeps no state that the next pump could not read from the rings.
type pump struct {
	orders   int // the keeper's socket
	board    *board
	queues   []*queuePair
	running  bool // the queues' goroutines
	mem      *vring.Memory
	regions  []vring.Region
	features uint64
	confine  Confine // called once everything is open
	lacks    string  // what this host could not confine
}

// Confine drops the privileges of the pump's process. lacks names, for a person, what this host
// could not confine; it is empty if nothing.
type Confine func() (lacks string, err error)

// Pump serves the orders that arrive on a SOCK_SEQPACKET socket until the
// keeper hangs up. It calls confine, if not nil, when the descriptors of the
// device have arrived, before the first packet.
func Pump(orders int, confine Confine) error {
	debug.SetGCPercent(200)
	p := &pump{orders: orders, confine: confine}
	defer p.close()
	for {
		var o order
		passed, err := receivePacket(orders, &o)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("orders: %w", err)
		}
		a := answer{Seq: o.Seq}
		if a.Base, err = p.obey(&o, passed); err != nil {
			a.Error = err.Error()
		}
		if o.Op == opInit {
			a.Lacks = p.lacks
		}
		fds.Close(passed)
		if err := fds.Socket(orders).Send(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// close ends the queues' goroutines and unmaps all memory.
func (p *pump) close() {
	for _, q := range p.queues {
		if p.running {
			q.do(func() { q.quit = true })
		}
		for _, fd := range []int{q.fd, q.epoll, q.wake} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		for _, e := range q.virtqueues() {
			fds.Close([]int{e.kick, e.call, e.err})
		}
	}
	for _, r := range p.regions {
		r.Unmap()
	}
	if p.board != nil {
		p.board.close()
	}
}

// obey executes one order. It replaces each descriptor that it keeps by -1.
func (p *pump) obey(o *order, fds []int) (uint16, error) {
	if o.Op == opInit {
		return 0, p.init(o.Setup, fds)
	}
	if p.board == nil {
		return 0, errors.New("order before init")
	}
	switch o.Op {
	case opMemory:
		return 0, p.memory(o.Regions, fds)
	case opOffer:
		p.features = o.Features
		return 0, p.offer()
	}
	if o.Index < 0 || o.Index >= p.rings() {
		return 0, fmt.Errorf("order for ring %d of %d", o.Index, p.rings())
	}
	switch o.Op {
	case opStart:
		return 0, p.start(o, fds)
	case opRun:
		return 0, p.run(o.Index)
	case opStop:
		return p.stop(o.Index), nil
	case opEnable:
		q, e := p.virtqueue(o.Index)
		q.do(func() { e.enabled = o.On })
		return 0, nil
	}
	return 0, fmt.Errorf("unknown order %q", o.Op)
}

// rings is the number of rings: two per queue pair, and one for control.
func (p *pump) rings() int { return 2*len(p.queues) + 1 }

// virtqueue finds a ring by its number: 2n is towards the card, 2n+1 from it. The last one, which
// belongs to the first queue pair, is for control.
func (p *pump) virtqueue(i int) (*queuePair, *virtqueue) {
	if i == 2*len(p.queues) {
		return p.queues[0], &p.queues[0].control.virtqueue
	}
	q := p.queues[i/2]
	if i%2 == 0 {
		return q, &q.rx
	}
	return q, &q.tx
}

func (p *pump) init(s *setup, fds []int) error {
	if p.board != nil || s == nil || s.Pairs < 1 || len(fds) != 1+s.Pairs {
		return errors.New("init: want it once, with the counters and a descriptor per queue pair")
	}
	// The name in ps, which shows 15 bytes. Without /proc there is no ps.
	_ = os.WriteFile("/proc/self/comm", []byte("toe: pump "+strings.TrimPrefix(s.Name, "port-")), 0)
	var err error
	if p.board, err = openBoard(os.NewFile(uintptr(take(&fds[0])), "counters"), s.Pairs); err != nil {
		return err
	}
	runtime.GOMAXPROCS(s.Pairs + 1)
	for i := range s.Pairs {
		fd := take(&fds[1+i])
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("queue pair %d: %w", i, err)
		}
		q, err := newQueuePair(i, fd, p.board, p.report)
		if err != nil {
			return err
		}
		q.seam, q.spin = s.Seam, time.Duration(s.Spin)
		q.control.pairs, q.control.tell = s.Pairs, p.tellPairs
		p.queues = append(p.queues, q)
		events := uint32(unix.EPOLLIN)
		if s.Stream {
			if q.stream, err = newStream(fd); err != nil {
				return err
			}
			events |= unix.EPOLLOUT // to retry the rest of a frame when the socket is writable
		}
		if err := q.watch(fd, events); err != nil {
			return err
		}
	}
	if p.confine != nil {
		var err error
		if p.lacks, err = p.confine(); err != nil {
			return fmt.Errorf("confinement: %w", err)
		}
	}
	p.running = true
	for _, q := range p.queues {
		go q.run()
	}
	return nil
}

// report sends news of a ring that was stopped, or of the device (ring -1).
func (p *pump) report(ring int, err error) {
	news := fmt.Sprintf("ring %d stopped: %v", ring, err)
	if ring < 0 {
		news = err.Error()
	}
	fds.Socket(p.orders).Send(answer{News: news})
}

// tellPairs reports to the keeper how many queue pairs the driver wants to use.
func (p *pump) tellPairs(n int) { fds.Socket(p.orders).Send(answer{Pairs: n}) }

// memory maps the new table and switches every queue to it between two turns. Only then it unmaps
// the old table, so no copy is in progress in unmapped memory.
func (p *pump) memory(table []vhostuser.Region, fds []int) error {
	if len(fds) != len(table) {
		return fmt.Errorf("%d regions with %d descriptors", len(table), len(fds))
	}
	var regions []vring.Region
	give := func(rs []vring.Region) {
		for _, r := range rs {
			r.Unmap()
		}
	}
	for i, r := range table {
		m, err := vring.Map(fds[i], r.Guest, r.User, r.Size, r.Offset)
		if err != nil {
			give(regions)
			return err
		}
		regions = append(regions, m)
	}
	mem, err := vring.NewMemory(regions...)
	if err == nil {
		err = p.move(mem)
	}
	if err != nil {
		give(regions)
		return err
	}
	give(p.regions)
	p.mem, p.regions = mem, regions
	return nil
}

// move moves every running ring to the new memory. If the new memory does not hold one of them, no
// ring moves.
func (p *pump) move(mem *vring.Memory) error {
	moved := make([]*vring.Ring, p.rings())
	for _, apply := range []bool{false, true} {
		for i := range moved {
			q, e := p.virtqueue(i)
			var err error
			q.do(func() {
				if e.ring == nil {
					return
				}
				if moved[i], err = e.ring.Moved(mem); err != nil || !apply {
					return
				}
				e.ring = moved[i]
				if e == &q.rx {
					q.win.reset()
				}
			})
			if err != nil {
				return fmt.Errorf("ring %d: %w", i, err)
			}
		}
	}
	return nil
}

// offer applies the negotiated features to the queues.
func (p *pump) offer() error {
	f := p.features
	gso := frame.GSO{
		TCPv4: f&vhostuser.NetHostTSO4 != 0,
		TCPv6: f&vhostuser.NetHostTSO6 != 0,
		ECN:   f&vhostuser.NetHostECN != 0,
		UDP:   f&vhostuser.NetHostUSO != 0,
	}
	for _, q := range p.queues {
		q.do(func() {
			q.gso = gso
			q.merge = f&vhostuser.NetMergeable != 0
		})
	}
	return nil
}

// start starts a ring, or gives a running one new descriptors.
func (p *pump) start(o *order, fds []int) error {
	if o.Ring == nil || p.mem == nil {
		return errors.New("ring without address or memory")
	}
	want := 1
	for _, has := range []bool{o.HasCall, o.HasErr} {
		if has {
			want++
		}
	}
	if len(fds) != want {
		return fmt.Errorf("ring with %d descriptors, want %d", len(fds), want)
	}
	q, e := p.virtqueue(o.Index)
	var err error
	q.do(func() { err = p.startNow(q, e, o, fds) })
	return err
}

// startNow runs on the queue's goroutine.
func (p *pump) startNow(q *queuePair, e *virtqueue, o *order, fds []int) error {
	r := o.Ring
	if e.ring == nil {
		base := int(r.Base)
		if o.Resume {
			base = -1
		}
		ring, err := vring.New(p.mem, vring.Config{
			Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used, Base: base, Write: e == &q.rx, Both: e == &q.control.virtqueue,
			EventIdx: p.features&vhostuser.RingEventIdx != 0,
			Indirect: p.features&vhostuser.RingIndirect != 0,
		})
		if err != nil {
			return err
		}
		e.placed, e.broken, e.bad = ring, false, 0
	}
	e.enabled = r.Enabled
	q.unwatch(e.kick)
	replaceFD(&e.kick, take(&fds[0]))
	call, errfd, rest := -1, -1, fds[1:]
	if o.HasCall {
		call, rest = take(&rest[0]), rest[1:]
	}
	if o.HasErr {
		errfd = take(&rest[0])
	}
	replaceFD(&e.call, call)
	kind := kindOf(call)
	e.socket, e.pause = kind == unix.S_IFSOCK, pauseFor(kind)
	replaceFD(&e.err, errfd)
	for _, fd := range []int{e.call, e.err} {
		if fd < 0 {
			continue
		}
		// A front end that does not read must not block the pump.
		if err := unix.SetNonblock(fd, true); err != nil {
			q.drop(e)
			return fmt.Errorf("descriptor %d: O_NONBLOCK: %w", fd, err)
		}
	}
	if err := q.watch(e.kick, unix.EPOLLIN); err != nil {
		q.drop(e)
		return err
	}
	return nil
}

// run lets a started ring move packets. It has no effect on a ring that moves them already.
func (p *pump) run(i int) (err error) {
	q, e := p.virtqueue(i)
	q.do(func() {
		switch {
		case e.ring != nil:
		case e.placed == nil:
			err = fmt.Errorf("ring %d is run before it is started", i)
		default:
			q.begin(e)
		}
	})
	return err
}

// begin runs on the queue's goroutine.
func (q *queuePair) begin(e *virtqueue) {
	e.ring, e.placed = e.placed, nil
	if e == &q.rx {
		q.win.reset()
	}
	q.control.used = 0 // another driver, or the same one restarted
	// The previous pump may have died between showing used buffers and
	// calling. A driver whose ring is full of them would never wake.
	e.ring.Called()
	e.signal()
}

// drop removes a ring from its queue, on the queue's goroutine.
func (q *queuePair) drop(e *virtqueue) {
	e.ring, e.placed = nil, nil
	q.unwatch(e.kick)
	replaceFD(&e.kick, -1)
	replaceFD(&e.call, -1)
	replaceFD(&e.err, -1)
	if e == &q.rx {
		q.win.reset()
	}
}

// stop stops a ring and returns the index at which the next device continues.
func (p *pump) stop(i int) (base uint16) {
	q, e := p.virtqueue(i)
	q.do(func() {
		if e.ring == nil {
			e.ring = e.placed
		}
		if e.ring == nil {
			return
		}
		e.ring.Show()
		base = e.ring.Base()
		q.drop(e)
	})
	return base
}

// take moves ownership of a descriptor to the caller.
func take(fd *int) int {
	n := *fd
	*fd = -1
	return n
}
