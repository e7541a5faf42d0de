package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vhostuser"
)

// Event is something that happened to a device, in words for a person.
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
	// Event is called for each event, one at a time and without a lock held,
	// so it may block. Close waits for the last call.
	Event func(Event)
	// AnswerWithin bounds a worker's answer to an order. It is killed afterwards. 0 means 5 s.
	AnswerWithin time.Duration
	// Worker is what messages call a worker; "pump" by default.
	Worker string

	dieWithin time.Duration // for tests; dieWithin by default
}

// Kind is what a keeper must know of the device that it keeps.
type Kind interface {
	// Shape, Features and Config are told to front ends (vhostuser.Device).
	Shape() vhostuser.Shape
	Features() uint64
	Config() []byte
	// Setup is what each worker gets first: a value for JSON, and files that stay the keeper's.
	Setup() (value any, files []*os.File)
	// Close closes the files. No worker runs then.
	Close()
}

// Keeper serves one device: it listens on the device's socket, talks to one front end at a time,
// and keeps a worker running: the pump that moves the packets, or that of a disk.
type Keeper struct {
	name     string // for messages
	kind     Kind
	net      *network // the kind, if it is a network device
	opts     Options
	events   *events
	pid      atomic.Int64 // of the pump; readable without mu
	listener *net.UnixListener

	// mu guards what follows. It is held while an order is in flight, so
	// orders reach the pump one at a time and in the order of the conversation.
	mu        sync.Mutex
	desired   desired
	pump      *running
	conn      *net.UnixConn
	closed    bool
	connected bool
	deaths    []time.Time
	lacks     string // what the confinement of the pump lacks, as last reported
	done      sync.WaitGroup
	quit      chan struct{} // closed by Close; ends waits that do not hold mu
}

// desired is the complete state that the front end wants. A new pump gets all of it.
type desired struct {
	features uint64
	table    []vhostuser.Region
	rings    map[int]desiredRing
	pairs    int // that the driver uses, set over a control ring; 0 if never set
}

// desiredRing is a ring that the front end has started.
type desiredRing struct {
	vhostuser.Ring
	taken bool // a pump has placed it: its position is the used index in memory, not Base
	lost  bool // the present pump refused it
}

// NewKeeper makes the socket and the first pump. Serve accepts front ends.
// NewKeeper takes ownership of the device's files, also when it returns an error.
func NewKeeper(dev Device, opts Options) (*Keeper, error) {
	n, err := newNetwork(dev)
	if err != nil {
		closeAll(dev.Files)
		return nil, err
	}
	if opts.Launch == nil {
		opts.Launch = LaunchProcess
	}
	return newKeeper(dev.Name, dev.Socket, n, n, opts)
}

// NewKeeperOf is NewKeeper for another kind of device, of which it takes ownership. Options.Launch
// starts its workers.
func NewKeeperOf(name, socket string, kind Kind, opts Options) (*Keeper, error) {
	return newKeeper(name, socket, kind, nil, opts)
}

func newKeeper(name, socket string, kind Kind, n *network, opts Options) (k *Keeper, err error) {
	k = &Keeper{
		name: name, kind: kind, net: n, opts: opts,
		desired: desired{rings: map[int]desiredRing{}}, quit: make(chan struct{}),
	}
	k.events = newEvents(opts.Event)
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	if k.opts.dieWithin == 0 {
		k.opts.dieWithin = dieWithin
	}
	k.opts.Worker = cmp.Or(k.opts.Worker, "pump")
	if k.opts.AnswerWithin == 0 {
		k.opts.AnswerWithin = answerWithin
	}
	if socket != "" {
		if k.listener, err = listen(socket); err != nil {
			return k, fmt.Errorf("device %s: %w", name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.steer()
	return k, k.launch()
}

// Serve serves front ends, one at a time, until Close is called or ctx ends.
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
			return fmt.Errorf("device %s: %w", k.name, err)
		}
		if pause == 0 {
			k.event("front ends cannot connect for now: %v", err)
		}
		pause = min(max(2*pause, 10*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-k.quit:
			return nil
		}
	}
}

// passes reports whether an error of accept is transient: the front end has gone away, or this
// process or host has too many files open.
func passes(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Converse serves one front end until it hangs up.
func (k *Keeper) Converse(c *net.UnixConn) error {
	defer c.Close()
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return net.ErrClosed
	}
	k.conn, k.connected = c, true
	k.mu.Unlock()
	err := vhostuser.Serve(c, (*backend)(k))
	k.mu.Lock()
	k.conn, k.connected = nil, false
	k.mu.Unlock()
	if err != nil && !k.isClosed() {
		k.event("front end disconnected: %v", err)
	}
	return err
}

// Connected reports whether a front end is connected.
func (k *Keeper) Connected() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.connected
}

// Stats returns the counters of every queue pair, none after Close. The read stops nothing and does
// not wait for the pump.
func (k *Keeper) Stats() []QueueStats { return k.net.board.stats() }

// PumpPID returns the pid of the pump that runs, 0 if none does.
func (k *Keeper) PumpPID() int {
	return int(k.pid.Load())
}

// setPump sets the pump, nil for none. k.mu is held.
func (k *Keeper) setPump(r *running) {
	k.pump = r
	pid := 0
	if r != nil {
		pid = r.process.PID()
	}
	k.pid.Store(int64(pid))
}

// Close ends the conversation and the pump and releases everything. The interface
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
	k.kind.Close()
	k.events.end()
	return nil
}

func (k *Keeper) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

func (k *Keeper) event(format string, args ...any) {
	k.events.add(Event{Device: k.name, Time: time.Now(), Text: fmt.Sprintf(format, args...)})
}
