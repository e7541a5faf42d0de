package card

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/machine"
)

const linkMTU = control.LinkMTU

// Network is what the supervisor asks of the host: the links' interfaces and
// where the ports lead. The fake of the tests is another one.
type Network interface {
	// Link makes the host's interface of the link: a TUN with MTU 65535, the
	// host's addresses, up.
	Link(ctx context.Context, want LinkWant) (*Attachment, error)
	// Exec makes the namespace for toe exec with its TUN, loopback up,
	// addresses, and default routes by way of the card.
	Exec(ctx context.Context, want LinkWant) (*Attachment, error)
	// CheckPort says what is wrong with where a port shall lead, before
	// anything is started.
	CheckPort(p PortSpec) error
	// Port opens where a port leads; mac is the card's address there. It
	// returns nil when the machine brings what is needed itself (QEMU's
	// user-mode network).
	Port(ctx context.Context, p PortSpec, mac net.HardwareAddr, kind machine.Kind) (*Attachment, error)
	// DefaultRoute sends the host's traffic through the link, and its name
	// resolution, and returns what undoes both.
	DefaultRoute(ctx context.Context, iface string, a LinkAddrs) (undo func() error, err error)
	// ReturnRoute makes what the host sends from its addresses of the link go
	// through the link, wherever it is for, and returns what undoes that.
	ReturnRoute(iface string, a LinkAddrs) (undo func() error, err error)
}

// LinkWant is an interface to make.
type LinkWant struct {
	Interface string // what card.yaml asks for; empty: Prefer, else the first free of toe0, toe1, …
	Prefer    string
	Queues    int
	Addrs     LinkAddrs
}

// Attachment is an open end on the host that packets are pumped to.
type Attachment struct {
	Interface string     // its name on the host, for people
	Files     []*os.File // one a queue pair; the keeper's from NewKeeper on
	Seam      bool       // layer 3: the frame seam is on
	Stream    bool       // Files[0] is a stream socket with a length before each frame (passt)
	Namespace *Namespace // not nil for toe exec's
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Ping      func(ctx context.Context, card netip.Addr) error
	// Lock locks the path MTU of a link's routes (lockMTU), Abort ends the TCP
	// connections over it (abortConnections); nil for a port.
	Lock  func(ctx context.Context, on bool) error
	Abort func(ctx context.Context) error
	Died  <-chan error // says why the other side ended; nil where that cannot happen
	// Renewed brings another file in place of Files[0] whose other side has ended.
	Renewed <-chan Renewal
	// Waits says what the other side is waiting for, "" for nothing; nil where
	// it never does.
	Waits func() string
	Close func() error // removes what was made for it; nil for nothing
}

// Renewal is a new other side of an attachment.
type Renewal struct {
	File *os.File
	Why  error // how the one before ended
}

// waits says what the other side is waiting for.
func (a *Attachment) waits() string {
	if a == nil || a.Waits == nil {
		return ""
	}
	return a.Waits()
}

func (a *Attachment) close() error {
	if a == nil || a.Close == nil {
		return nil
	}
	return a.Close()
}

// Namespace is how a process gets into toe exec's namespace.
type Namespace struct {
	PID  int  // a process that lives in it for as long as it is there
	User bool // it has a user namespace of its own, too
}

// Device is a network device of the card as a keeper serves it.
type Device struct {
	Name   string
	Socket string
	MAC    net.HardwareAddr
	MTU    int
	Queues int
	Spin   time.Duration // how long its pump looks for packets before it sleeps
	Att    *Attachment
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
	Kernel, Initrd                  string // paths
}
