package disk

import (
	"context"
	"os"
	"time"

	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/vhostuser"
)

// WorkerVerb is the hidden verb that makes the program a disk's worker. Its orders arrive on
// descriptor 3.
const WorkerVerb = "disk-worker"

// answerWithin bounds a worker's answer to an order. The worker answers between two requests, and a
// flush to a slow disk takes seconds.
const answerWithin = time.Minute

// Options selects how workers are started. The zero value suits a program whose main calls
// worker.Main.
type Options struct {
	// Launch starts a worker with its socket for orders; LaunchProcess by default.
	Launch func(orders *os.File) (link.Process, error)
	// Event is called for each event, one at a time. Close waits for the last call.
	Event func(link.Event)
}

// Keeper serves one disk: it listens on the disk's socket, talks to one front end at a time, and
// keeps a worker running.
type Keeper struct {
	keeper *link.Keeper
	kind   *kind
}

// NewKeeper makes the socket and the first worker. Serve accepts front ends. NewKeeper takes
// ownership of the disk's file, also when it returns an error.
func NewKeeper(d Disk, o Options) (*Keeper, error) {
	kind, err := newKind(d)
	if err != nil {
		if d.File != nil {
			d.File.Close()
		}
		return nil, err
	}
	if o.Launch == nil {
		o.Launch = LaunchProcess
	}
	k, err := link.NewKeeperOf(d.Name, d.Socket, kind, link.Options{
		Launch: o.Launch, Event: o.Event, AnswerWithin: answerWithin, Worker: "disk worker",
	})
	if err != nil {
		return nil, err
	}
	return &Keeper{k, kind}, nil
}

// LaunchProcess starts this program anew as a disk's worker.
func LaunchProcess(orders *os.File) (link.Process, error) { return link.LaunchVerb(WorkerVerb, orders) }

// Serve serves front ends, one at a time, until Close is called or ctx ends.
func (k *Keeper) Serve(ctx context.Context) error { return k.keeper.Serve(ctx) }

// Connected reports whether a front end is connected.
func (k *Keeper) Connected() bool { return k.keeper.Connected() }

// WorkerPID returns the pid of the worker that runs, 0 if none does.
func (k *Keeper) WorkerPID() int { return k.keeper.PumpPID() }

// Close ends the conversation and the worker and closes the file, which releases its lock.
func (k *Keeper) Close() error { return k.keeper.Close() }

// Size returns the size of the disk in bytes.
func (k *Keeper) Size() int64 { return k.kind.bytes }

// Stats returns the counters, zero after Close. The read does not wait for the worker.
func (k *Keeper) Stats() Stats { return k.kind.ctr.stats() }

// kind is a disk as its keeper sees it.
type kind struct {
	disk  Disk
	bytes int64
	ctr   *counters
}

func newKind(d Disk) (*kind, error) {
	size, err := d.size()
	if err != nil {
		return nil, err
	}
	ctr, err := newCounters()
	if err != nil {
		return nil, err
	}
	return &kind{d, size, ctr}, nil
}

func (k *kind) Shape() vhostuser.Shape { return vhostuser.BlkShape() }
func (k *kind) Features() uint64       { return features(k.disk.ReadOnly) }
func (k *kind) Config() []byte         { return config(k.bytes) }

// setup is what a worker gets first, with the counters and the file.
type setup struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"` // bytes
	ReadOnly bool   `json:"read_only"`
}

func (k *kind) Setup() (any, []*os.File) {
	return setup{k.disk.Name, k.bytes, k.disk.ReadOnly}, []*os.File{k.ctr.memory.File, k.disk.File}
}

func (k *kind) Close() {
	k.disk.File.Close()
	k.ctr.memory.Close()
}
