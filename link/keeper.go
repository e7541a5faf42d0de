package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// Event is something that happened to a device and that a person may want to
// know.
type Event struct {
	Device string    `json:"device"`
	Time   time.Time `json:"time"`
	Text   string    `json:"text"`
}

// Options say how pumps are started.
type Options struct {
	// Launch starts a pump with the given SOCK_SEQPACKET socket as the
	// channel for its orders; LaunchProcess by default.
	Launch func(orders *os.File) (Process, error)
	// Event is called for each event, one after the other and with nothing
	// held: it may take its time. Close waits for the last one.
	Event func(Event)

	dieWithin time.Duration // for tests; dieWithin by default
}

// Keeper serves one device: it listens on the device's socket, speaks with one
// front end at a time, and sees to it that a pump moves the packets.
type Keeper struct {
	dev      Device
	opts     Options
	accepted tun.Offload
	board    *board
	events   *events
	pid      atomic.Int64 // of the pump, for those who cannot wait for mu
	listener *net.UnixListener

	// mu guards what follows. It is held while the pump is spoken to, so
	// orders reach it one at a time and in the order of the conversation.
	mu        sync.Mutex
	wish      wish
	detached  []bool // queue pairs that the host's kernel hands nothing to
	pump      *running
	conn      *net.UnixConn
	closed    bool
	connected bool
	deaths    []time.Time
	lacks     string // what the confinement of the pump lacks, as it was told
	done      sync.WaitGroup
	quit      chan struct{} // closed by Close, for whoever waits without mu
}

// wish is what the pump must be told to do, all of it: a new pump is told the
// same again.
type wish struct {
	features uint64
	table    []vhostuser.Region
	rings    map[int]wishedRing
	pairs    int // that the driver said it uses, over a control ring; 0 if it said nothing
}

// wishedRing is a ring that the front end has started.
type wishedRing struct {
	vhostuser.Ring
	taken bool // a pump has had it: where it is stands in the card's memory, not in Base
	lost  bool // the pump of now did not take it
}

// base is where a pump that has not had the ring has to go on: -1 says that the
// card's memory knows.
func (r wishedRing) base() int {
	if r.taken {
		return -1
	}
	return int(r.Base)
}

// NewKeeper makes the socket and the first pump. Serve accepts front ends.
// The device's files are the keeper's, also when it returns an error.
func NewKeeper(dev Device, opts Options) (k *Keeper, err error) {
	k = &Keeper{dev: dev, opts: opts, wish: wish{rings: map[int]wishedRing{}}, quit: make(chan struct{})}
	k.events = newEvents(opts.Event)
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	if err := dev.check(); err != nil {
		return k, err
	}
	if k.opts.Launch == nil {
		k.opts.Launch = LaunchProcess
	}
	if k.opts.dieWithin == 0 {
		k.opts.dieWithin = dieWithin
	}
	if !dev.Stream {
		if k.accepted, err = tun.Probe(int(dev.Files[0].Fd())); err != nil {
			return k, fmt.Errorf("device %s: %w", dev.Name, err)
		}
	}
	if k.board, err = newBoard(len(dev.Files)); err != nil {
		return k, err
	}
	if dev.Socket != "" {
		if k.listener, err = listen(dev.Socket); err != nil {
			return k, fmt.Errorf("device %s: %w", dev.Name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.detached = make([]bool, len(dev.Files))
	k.steer()
	return k, k.launch()
}

// Serve speaks with one front end after the other until Close or ctx ends.
func (k *Keeper) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { k.Close() })
	defer stop()
	for pause := time.Duration(0); ; {
		c, err := k.listener.AcceptUnix()
		if err == nil {
			pause = 0
			k.Converse(c)
			continue
		}
		if k.isClosed() {
			return nil
		}
		if !passes(err) {
			return fmt.Errorf("device %s: %w", k.dev.Name, err)
		}
		if pause == 0 {
			k.event("no front end can come in for now: %v", err)
		}
		pause = min(max(2*pause, 10*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-k.quit:
			return nil
		}
	}
}

// passes says whether an error of accept is of the moment: the one front end has
// gone again, or this process or this host has too much open.
func passes(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Converse speaks with one front end until it hangs up.
func (k *Keeper) Converse(c *net.UnixConn) error {
	defer c.Close()
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return net.ErrClosed
	}
	k.conn, k.connected = c, true
	k.mu.Unlock()
	err := vhostuser.Serve(c, (*device)(k))
	k.mu.Lock()
	k.conn, k.connected = nil, false
	k.mu.Unlock()
	if err != nil && !k.isClosed() {
		k.event("front end left out: %v", err)
	}
	return err
}

// Connected says whether a front end is there.
func (k *Keeper) Connected() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.connected
}

// Stats are the counters of every queue pair, none after Close. Nothing stops to
// be read, and a pump that does not answer keeps nobody from reading.
func (k *Keeper) Stats() []QueueStats { return k.board.stats() }

// PumpPID is the process that copies now, 0 while there is none.
func (k *Keeper) PumpPID() int {
	return int(k.pid.Load())
}

// setPump says who the pump is, nil for nobody. k.mu is held.
func (k *Keeper) setPump(r *running) {
	k.pump = r
	pid := 0
	if r != nil {
		pid = r.process.PID()
	}
	k.pid.Store(int64(pid))
}

// Close ends conversation and pump and gives everything back. The interface
// goes away with its last descriptor.
func (k *Keeper) Close() error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil
	}
	k.closed = true
	close(k.quit)
	pump := k.pump
	k.setPump(nil)
	if k.listener != nil {
		k.listener.Close()
	}
	if k.conn != nil {
		k.conn.Close()
	}
	k.mu.Unlock()
	if pump != nil {
		pump.end()
	}
	k.done.Wait()
	closeAll(k.dev.Files)
	k.events.end()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.board != nil {
		k.board.close()
	}
	return nil
}

func (k *Keeper) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

func (k *Keeper) event(format string, args ...any) {
	k.events.add(Event{Device: k.dev.Name, Time: time.Now(), Text: fmt.Sprintf(format, args...)})
}

// errNoPump says that no pump could be told. What was to be told stands in the
// wish, so the next pump will know.
var errNoPump = errors.New("no pump")

// launch starts a pump and tells it everything. k.mu is held.
func (k *Keeper) launch() error {
	r, err := start(k.opts.Launch)
	if err != nil {
		return err
	}
	k.setPump(r)
	k.done.Add(1)
	go k.watch(r)
	a, err := r.tell(order{Op: opInit, Setup: &setup{
		Name: k.dev.Name, Pairs: len(k.dev.Files), Seam: k.dev.Seam, Stream: k.dev.Stream, Spin: int64(k.dev.Spin),
	}}, append([]*os.File{k.board.file}, k.dev.Files...)...)
	k.confined(a.Lacks)
	if err == nil && k.wish.features != 0 {
		_, err = r.tell(order{Op: opOffer, Features: k.wish.features})
	}
	if err == nil && len(k.wish.table) > 0 {
		if err = tellMemory(r, k.wish.table); isRefusal(err) {
			// The next pump would refuse it too: it is for the front end
			// to begin anew.
			k.event("front end left out: its memory: %v", err)
			k.giveUp()
			return nil
		}
	}
	for i, ring := range k.wish.rings {
		if err != nil {
			break
		}
		err = k.start(i, ring)
		if ring = k.wish.rings[i]; isRefusal(err) {
			// Its memory does not hold it: the others go on.
			k.event("ring %d: %v", i, err)
			ring.lost, err = true, nil
		} else {
			ring.lost = false
		}
		k.wish.rings[i] = ring
	}
	if err != nil {
		err = fmt.Errorf("device %s: pump: %w", k.dev.Name, err)
		return errors.Join(err, k.bury())
	}
	return nil
}

// bury kills the pump and waits until it is dead: only then may there be another. The error says
// that it is not; it stays the pump then, and watch replaces it when it has died. k.mu is held.
func (k *Keeper) bury() error {
	r := k.pump
	if err := r.kill(k.opts.dieWithin); err != nil {
		return fmt.Errorf("device %s: %w", k.dev.Name, err)
	}
	k.hear(r)
	k.setPump(nil)
	return nil
}

// start has the pump take over a ring and run it, as two orders. The first alone says where the
// ring goes on, and nothing moves before its answer has come: so it is certain at each moment
// whether the next pump must go on from the front end's base or from the card's memory. k.mu is
// held.
func (k *Keeper) start(i int, ring wishedRing) error {
	err := tellStart(k.pump, i, ring.Ring, ring.base())
	if err != nil {
		return err
	}
	ring.taken = true
	k.wish.rings[i] = ring
	_, err = k.pump.tell(order{Op: opRun, Index: i})
	return err
}

// confined tells what the pump's confinement lacks, once and not for each pump.
// k.mu is held.
func (k *Keeper) confined(lacks string) {
	if lacks != "" && lacks != k.lacks {
		k.event("the pump is confined less than it could be: %s", lacks)
	}
	k.lacks = lacks
}

// giveUp ends the conversation, and forgets what the front end wants. k.mu is
// held.
func (k *Keeper) giveUp() {
	k.wish = wish{rings: map[int]wishedRing{}}
	if k.conn != nil {
		k.conn.Close()
	}
}

// watch waits for the end of a pump and puts another in its place.
func (k *Keeper) watch(r *running) {
	defer k.done.Done()
	for news := range r.news {
		k.usePairs(r)
		if news != "" {
			k.event("%s", news)
		}
	}
	// A pump that has hung up has ended or is about to: one that stays on
	// without taking orders is nobody's any more.
	r.end()
	why := r.process.Wait()
	gone := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	r.closeOrders()
	if k.closed || k.pump != r {
		return
	}
	k.setPump(nil)
	if !k.revive(fmt.Sprintf("pump %d ended (%s)", r.process.PID(), why)) {
		return
	}
	k.event("pump %d ended (%s), replaced by %d in %s", r.process.PID(), why, k.pump.process.PID(), time.Since(gone).Round(time.Millisecond))
}

// revive starts pumps until one stays or the keeper is closed, and says whether
// there is one. k.mu is held, and let go of while it waits.
func (k *Keeper) revive(what string) bool {
	for {
		err := k.relaunch()
		if err == nil {
			return true
		}
		if k.closed {
			return false
		}
		k.event("%s and could not be replaced: %v", what, err)
	}
}

// relaunch starts the next pump at once, but not more than ten times in ten
// seconds: a card that makes every pump fault must not keep the host busy.
// k.mu is held, and let go of while it waits.
func (k *Keeper) relaunch() error {
	const most, within = 10, 10 * time.Second
	if k.pump != nil {
		return nil
	}
	now := time.Now()
	for len(k.deaths) > 0 && now.Sub(k.deaths[0]) > within {
		k.deaths = k.deaths[1:]
	}
	k.deaths = append(k.deaths, now)
	if len(k.deaths) > most {
		wait := within - now.Sub(k.deaths[0])
		k.event("pump ended %d times in %s: the next one starts in %s", len(k.deaths), within, wait.Round(time.Second))
		k.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-k.quit:
		}
		k.mu.Lock()
	}
	if k.closed {
		return net.ErrClosed
	}
	if k.pump != nil {
		return nil
	}
	return k.launch()
}
