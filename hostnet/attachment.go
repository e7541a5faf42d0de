package hostnet

import (
	"context"
	"net"
	"net/netip"
	"os"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/passt"
)

// LinkOptions is an interface to make.
type LinkOptions struct {
	Interface string // what card.yaml asks for; empty: Prefer, else the first free of toe0, toe1, …
	Prefer    string
	Queues    int
	Addrs     store.LinkAddrs
}

// Attachment is an open end on the host that packets are pumped to.
type Attachment struct {
	Interface  string     // its name on the host, for people
	Files      []*os.File // one a queue pair; the keeper's from NewKeeper on
	Seam       bool       // layer 3: the frame seam is on
	Stream     bool       // Files[0] is a stream socket with a length before each frame (passt)
	Program    string     // what packets go through in user space (passt), for people
	Namespaces []*os.File // toe exec's: network, and user where it has its own; closed by Close
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	Ping       func(ctx context.Context, card netip.Addr) error
	// Lock locks the path MTU of a link's routes (lockMTU), Abort ends the TCP
	// connections over it (abortConnections); nil for a port.
	Lock  func(ctx context.Context, on bool) error
	Abort func(ctx context.Context) error
	// Blocked is a *firewall.Dropped where the host's firewall drops the link's
	// packets; nil for a port and in a namespace, which have none.
	Blocked func(ctx context.Context) error
	Died    <-chan error // says why the other side ended; nil where that cannot happen
	// Renewed brings another file in place of Files[0] whose other side has ended.
	Renewed <-chan passt.Renewal
	// Waits returns what the other side is waiting for, "" for nothing; nil if it never waits.
	Waits func() string
	Close func() error // removes what was made for it; nil for nothing
}

// Waiting returns what the other side is waiting for, "" for nothing.
func (a *Attachment) Waiting() string {
	if a == nil || a.Waits == nil {
		return ""
	}
	return a.Waits()
}

func (a *Attachment) Detach() error {
	if a == nil || a.Close == nil {
		return nil
	}
	return a.Close()
}
