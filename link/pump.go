package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// pump is the worker's part of a network device: it copies packets.
type pump struct {
	orders int
	board  *board
	pairs  []*queuePair
}

// Pump serves the orders that arrive on a SOCK_SEQPACKET socket until the
// keeper hangs up. It calls confine, if not nil, when the descriptors of the
// device have arrived, before the first packet.
func Pump(orders int, confine Confine) error {
	w := &worker{orders: orders, confine: confine}
	w.open = func(setup json.RawMessage, fds []int) (served, error) { return openPump(w, setup, fds) }
	return w.work()
}

func openPump(w *worker, what json.RawMessage, fds []int) (served, error) {
	var s setup
	if err := json.Unmarshal(what, &s); err != nil || s.Pairs < 1 || len(fds) != 1+s.Pairs {
		return nil, errors.New("init: want the counters and a descriptor per queue pair")
	}
	NameProcess("pump " + strings.TrimPrefix(s.Name, "port-"))
	p := &pump{orders: w.orders}
	var err error
	if p.board, err = openBoard(os.NewFile(uintptr(take(&fds[0])), "counters"), s.Pairs); err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(s.Pairs + 1)
	for i := range s.Pairs {
		if err := p.openPair(w, &s, i, take(&fds[1+i])); err != nil {
			p.abandon()
			return nil, err
		}
	}
	return p, nil
}

// openPair opens one queue pair on a descriptor, which it owns.
func (p *pump) openPair(w *worker, s *setup, i, fd int) error {
	q, err := newQueuePair(i, s.Pairs, fd, p.board, w.report)
	p.pairs = append(p.pairs, q)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("queue pair %d: %w", i, err)
	}
	q.seam, q.spin = s.Seam, time.Duration(s.Spin)
	q.control.pairs, q.control.report = s.Pairs, p.reportPairs
	events := uint32(unix.EPOLLIN)
	if s.Stream {
		if q.stream, err = newStream(fd); err != nil {
			return err
		}
		events |= unix.EPOLLOUT // to retry the rest of a frame when the socket is writable
	}
	return q.watch(fd, events)
}

// abandon closes what was opened before an error.
func (p *pump) abandon() {
	for _, q := range p.pairs {
		fds.Close([]int{q.epoll, q.wake})
	}
	p.close()
}

func (p *pump) run() {
	for _, q := range p.pairs {
		go q.run()
	}
}

// queues returns the queue pairs. Ring 2n is towards the card, 2n+1 from it. The last one, which
// belongs to the first queue pair, is for control.
func (p *pump) queues() (all []*queue) {
	for _, q := range p.pairs {
		all = append(all, &q.queue)
	}
	return all
}

func (p *pump) close() {
	for _, q := range p.pairs {
		unix.Close(q.fd)
	}
	p.board.Close()
}

// reportPairs reports to the keeper how many queue pairs the driver wants to use.
func (p *pump) reportPairs(n int) { fds.Socket(p.orders).Send(answer{Pairs: n}) }

// offer applies the negotiated features to the queues.
func (p *pump) offer(f uint64) {
	gso := frame.GSO{
		TCPv4: f&vhostuser.NetHostTSO4 != 0,
		TCPv6: f&vhostuser.NetHostTSO6 != 0,
		ECN:   f&vhostuser.NetHostECN != 0,
		UDP:   f&vhostuser.NetHostUSO != 0,
	}
	for _, q := range p.pairs {
		q.do(func() {
			q.gso = gso
			q.merge = f&vhostuser.NetMergeable != 0
		})
	}
}
