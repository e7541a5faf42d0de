package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/vhostuser"
	"github.com/toe-project/toe/link/vring"
)

// served is a device as its worker serves it.
type served interface {
	// run starts the goroutine of each queue.
	run()
	// queues returns all queues. Together they have the rings 0 to n-1.
	queues() []*queue
	// offer applies the features that the driver accepted.
	offer(features uint64)
	// close closes what the device has beside its queues, after their goroutines have ended.
	close()
}

// worker is the process that works on the rings of one device. It holds the host's end of the
// device and the card's memory, and nothing else. It keeps no state that the next worker could not
// read from the rings.
type worker struct {
	orders   int // the keeper's socket
	open     func(setup json.RawMessage, fds []int) (served, error)
	device   served       // nil before init
	rings    []*virtqueue // by number
	at       []*queue     // the queue of each ring
	running  bool         // the queues' goroutines
	mem      *vring.Memory
	regions  []vring.Region
	features uint64
	confine  Confine // called once everything is open
	lacks    string  // what this host could not confine
}

// Confine drops the privileges of the worker's process. lacks names, for a person, what this host
// could not confine; it is empty if nothing.
type Confine func() (lacks string, err error)

// work serves the orders of a keeper until it hangs up.
func (p *worker) work() error {
	debug.SetGCPercent(200)
	defer p.close()
	for {
		var o order
		passed, err := receivePacket(p.orders, &o)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("orders: %w", err)
		}
		a := answer{Seq: o.Seq}
		if a.Base, err = p.execute(&o, passed); err != nil {
			a.Error = err.Error()
		}
		if o.Op == opInit {
			a.Lacks = p.lacks
		}
		fds.Close(passed)
		if err := fds.Socket(p.orders).Send(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// close ends the queues' goroutines and unmaps all memory.
func (p *worker) close() {
	if p.device == nil {
		return
	}
	for _, q := range p.device.queues() {
		if p.running {
			q.do(func() { q.quit = true })
		}
		fds.Close([]int{q.epoll, q.wake})
		for _, e := range q.all {
			fds.Close([]int{e.kick, e.call, e.err})
		}
	}
	p.device.close()
	for _, r := range p.regions {
		r.Unmap()
	}
}

// execute carries out one order. It replaces each descriptor that it keeps by -1.
func (p *worker) execute(o *order, fds []int) (uint16, error) {
	if o.Op == opInit {
		return 0, p.init(o.Setup, fds)
	}
	if p.device == nil {
		return 0, errors.New("order before init")
	}
	switch o.Op {
	case opMemory:
		return 0, p.memory(o.Regions, fds)
	case opOffer:
		p.features = o.Features
		p.device.offer(o.Features)
		return 0, nil
	}
	if o.Index < 0 || o.Index >= len(p.rings) {
		return 0, fmt.Errorf("order for ring %d of %d", o.Index, len(p.rings))
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

// virtqueue finds a ring by its number.
func (p *worker) virtqueue(i int) (*queue, *virtqueue) { return p.at[i], p.rings[i] }

// init opens the device, drops the process's privileges, and starts the queues.
func (p *worker) init(setup json.RawMessage, fds []int) error {
	if p.device != nil {
		return errors.New("init: the device is open")
	}
	device, err := p.open(setup, fds)
	if err != nil {
		return err
	}
	p.device = device
	for _, q := range device.queues() {
		for _, e := range q.all {
			for len(p.rings) <= e.number {
				p.rings, p.at = append(p.rings, nil), append(p.at, nil)
			}
			p.rings[e.number], p.at[e.number] = e, q
		}
	}
	if p.confine != nil {
		if p.lacks, err = p.confine(); err != nil {
			return fmt.Errorf("confinement: %w", err)
		}
	}
	p.running = true
	device.run()
	return nil
}

// report sends news of a ring that was stopped, or of the device (ring -1).
func (p *worker) report(ring int, err error) {
	news := fmt.Sprintf("ring %d stopped: %v", ring, err)
	if ring < 0 {
		news = err.Error()
	}
	fds.Socket(p.orders).Send(answer{News: news})
}

// NameProcess sets the name in ps, which shows 15 bytes. Without /proc there is no ps.
func NameProcess(name string) { _ = os.WriteFile("/proc/self/comm", []byte("toe: "+name), 0) }

// memory maps the new table and switches every queue to it between two turns. Only then it unmaps
// the old table, so no copy is in progress in unmapped memory.
func (p *worker) memory(table []vhostuser.Region, fds []int) error {
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
func (p *worker) move(mem *vring.Memory) error {
	moved := make([]*vring.Ring, len(p.rings))
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
				e.renew()
			})
			if err != nil {
				return fmt.Errorf("ring %d: %w", i, err)
			}
		}
	}
	return nil
}

// start starts a ring, or gives a running one new descriptors.
func (p *worker) start(o *order, fds []int) error {
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
func (p *worker) startNow(q *queue, e *virtqueue, o *order, fds []int) error {
	r := o.Ring
	if e.ring == nil {
		base := int(r.Base)
		if o.Resume {
			base = -1
		}
		ring, err := vring.New(p.mem, vring.Config{
			Size: r.Size, Desc: r.Desc, Avail: r.Avail, Used: r.Used, Base: base, Write: e.kind.write, Both: e.kind.both, Most: e.kind.most,
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
		// A front end that does not read must not block the worker.
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

// run lets a worker take chains of a started ring. It has no effect on a ring that runs already.
func (p *worker) run(i int) (err error) {
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
func (q *queue) begin(e *virtqueue) {
	e.ring, e.placed = e.placed, nil
	e.renew()
	// The previous worker may have died between showing used buffers and
	// calling. A driver whose ring is full of them would never wake.
	e.ring.Called()
	e.signal()
}

// drop removes a ring from its queue, on the queue's goroutine.
func (q *queue) drop(e *virtqueue) {
	e.ring, e.placed = nil, nil
	q.unwatch(e.kick)
	replaceFD(&e.kick, -1)
	replaceFD(&e.call, -1)
	replaceFD(&e.err, -1)
	e.renew()
}

// renew drops what the device remembers of a ring's chains.
func (e *virtqueue) renew() {
	if e.fresh != nil {
		e.fresh()
	}
}

// stop stops a ring and returns the index at which the next device continues.
func (p *worker) stop(i int) (base uint16) {
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
