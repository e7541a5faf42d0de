package supervisor

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/machine"
)

// Network is what the supervisor asks of the host: the links' interfaces and
// where the ports lead. The fake of the tests is another one.
type Network interface {
	// Prefixes are the address ranges that the host uses already.
	Prefixes() []store.Used
	// Link makes the host's interface of the link: a TUN with MTU 65535, the
	// host's addresses, up.
	Link(ctx context.Context, want hostnet.LinkOptions) (*hostnet.Attachment, error)
	// Exec makes the namespace for toe exec with its TUN, loopback up, addresses, and default
	// routes through the card.
	Exec(ctx context.Context, want hostnet.LinkOptions) (*hostnet.Attachment, error)
	// CheckPort returns why a port cannot be attached. It changes nothing.
	CheckPort(p spec.Port) error
	// Port opens where a port leads; mac is the card's address there. It
	// returns nil when the machine brings what is needed itself (QEMU's
	// user-mode network).
	Port(ctx context.Context, p spec.Port, mac net.HardwareAddr, kind machine.Kind) (*hostnet.Attachment, error)
	// DefaultRoute sends the host's traffic through the link, and its name
	// resolution, and returns what undoes both.
	DefaultRoute(ctx context.Context, iface string, a store.LinkAddrs) (undo func() error, err error)
	// ReturnRoute makes what the host sends from its addresses of the link go
	// through the link, wherever it is for, and returns what undoes that.
	ReturnRoute(iface string, a store.LinkAddrs) (undo func() error, err error)
}

var _ Network = (*hostnet.Host)(nil)

// Device is a network device of the card as a keeper serves it.
type Device struct {
	Name   string
	Socket string
	MAC    net.HardwareAddr
	MTU    int
	Queues int
	Spin   time.Duration // how long its pump looks for packets before it sleeps
	Att    *hostnet.Attachment
}

// Keeper holds the vhost-user conversation of one device and keeps a pump
// process running for it (link.Keeper).
type Keeper interface {
	// Serve speaks with one front end after the other until Close.
	Serve(ctx context.Context) error
	// PumpPID and Stats wait for nothing, and an event is told with nothing held:
	// both may be asked for with a lock held that the event wants.
	PumpPID() int
	Stats() []link.QueueStats
	Close() error
}

// LinkKeeper is the Keeper of real machines.
func LinkKeeper(d Device, event func(text string)) (Keeper, error) {
	k, err := link.NewKeeper(link.Device{
		Name: d.Name, Socket: d.Socket, MAC: d.MAC, MTU: d.MTU,
		Files: d.Att.Files, Seam: d.Att.Seam, Stream: d.Att.Stream, Spin: d.Spin,
	}, link.Options{Event: func(e link.Event) { event(e.Text) }})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Image is firmware, ready to be booted.
type Image struct {
	Edition, Version, KernelVersion string
	Digest                          string // SHA-256, in hex, of the image's manifest
	AgentVersion, AgentSHA256       string // of the agent in it; the version may be empty
	Kernel, Initrd                  string // paths
	Slot                            string // of the flash that it comes from; empty where from none
	Rescue                          string // why it was started and not a slot of the flash
	// InUse keeps the files in the cache until it is closed. May be nil.
	InUse io.Closer
}

// DiskKeeper serves a disk of the card (disk.Keeper).
type DiskKeeper interface {
	Serve(ctx context.Context) error
	// These wait for nothing.
	WorkerPID() int
	Size() int64 // bytes
	Stats() disk.Stats
	Close() error
}
