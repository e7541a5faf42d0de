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
	// Event is called for each event, from any goroutine; it must not block.
	Event func(Event)
}

// Keeper serves one device: it listens on the device's socket, speaks with one
// front end at a time, and sees to it that a pump moves the packets.
type Keeper struct {
	dev      Device
	opts     Options
	accepted tun.Offload
	board    *board
	pid      atomic.Int64 // of the pump, for those who cannot wait for mu
	listener *net.UnixListener

	// mu guards what follows. It is held while the pump is spoken to, so
	// orders reach it one at a time and in the order of the conversation.
	mu        sync.Mutex
	wish      wish
	pump      *running
	conn      *net.UnixConn
	closed    bool
	connected bool
	deaths    []time.Time
	done      sync.WaitGroup
	quit      chan struct{} // closed by Close, for whoever waits without mu
}

// wish is what the pump must be told to do, all of it: a new pump is told the
// same again.
type wish struct {
	features uint64
	table    []vhostuser.Region
	rings    map[int]vhostuser.Ring
}

// NewKeeper makes the socket and the first pump. Serve accepts front ends.
// The device's files are the keeper's, also when it returns an error.
func NewKeeper(dev Device, opts Options) (k *Keeper, err error) {
	k = &Keeper{dev: dev, opts: opts, wish: wish{rings: map[int]vhostuser.Ring{}}, quit: make(chan struct{})}
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
	if !dev.Stream {
		if k.accepted, err = tun.Probe(int(dev.Files[0].Fd())); err != nil {
			return k, fmt.Errorf("device %s: %w", dev.Name, err)
		}
	}
	if k.board, err = newBoard(len(dev.Files)); err != nil {
		return k, err
	}
	if dev.Socket != "" {
		if k.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: dev.Socket, Net: "unix"}); err != nil {
			return k, fmt.Errorf("device %s: %w", dev.Name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.launch()
}

// Serve speaks with one front end after the other until Close or ctx ends.
func (k *Keeper) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { k.Close() })
	defer stop()
	for {
		c, err := k.listener.AcceptUnix()
		if err != nil {
			if k.isClosed() {
				return nil
			}
			return fmt.Errorf("device %s: %w", k.dev.Name, err)
		}
		k.Converse(c)
	}
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
	if k.opts.Event != nil {
		k.opts.Event(Event{Device: k.dev.Name, Time: time.Now(), Text: fmt.Sprintf(format, args...)})
	}
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
	_, err = r.tell(order{Op: opInit, Setup: &setup{
		Name: k.dev.Name, Pairs: len(k.dev.Files), Seam: k.dev.Seam, Stream: k.dev.Stream, Spin: int64(k.dev.Spin),
	}}, append([]*os.File{k.board.file}, k.dev.Files...)...)
	if err == nil && k.wish.features != 0 {
		_, err = r.tell(order{Op: opOffer, Features: k.wish.features})
	}
	if err == nil && len(k.wish.table) > 0 {
		err = tellMemory(r, k.wish.table)
	}
	for i, ring := range k.wish.rings {
		if err != nil {
			break
		}
		if err = tellStart(r, i, ring, -1); isRefusal(err) {
			// Its memory does not hold it: the others go on.
			k.event("ring %d: %v", i, err)
			delete(k.wish.rings, i)
			err = nil
		}
	}
	if err != nil {
		k.setPump(nil)
		r.hangUp()
		r.process.Kill()
		return fmt.Errorf("device %s: pump: %w", k.dev.Name, err)
	}
	return nil
}

// watch waits for the end of a pump and puts another in its place.
func (k *Keeper) watch(r *running) {
	defer k.done.Done()
	for news := range r.news {
		k.event("%s", news)
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
