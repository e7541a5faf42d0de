// Package hostnet makes every change of the host that a card needs:
// interfaces, routes, rules, name resolution. What outlives a process is in the
// card's journal before it is made.
package hostnet

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/firewall"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/link/tun"
)

// Host is the Network of this machine.
type Host struct {
	card *store.Card
	logf func(format string, args ...any)
	// passt chooses the passt of user ports: passt.Choose, or a test's own.
	passt func(ctx context.Context, cache string, p *progress.Progress) (passt.Program, error)
}

// NewHost is the host's side of card c. logf gets what child processes say.
func NewHost(c *store.Card, logf func(string, ...any)) *Host {
	return &Host{card: c, logf: logf, passt: passt.Choose}
}

// maxLinks bounds the search for a free interface name.
const maxLinks = 1000

// Link makes the TUN in the host's network namespace. It goes away with its
// Last descriptor, whatever happens to this process.
func (h *Host) Link(_ context.Context, want LinkOptions) (*Attachment, error) {
	// One at a time, or two cards that start together would both find the
	// same name free and be put on one interface.
	l, err := flock.Wait(filepath.Join(h.card.Dirs.State, ".lock"))
	if err != nil {
		return nil, err
	}
	defer l.Release()
	name, err := pickInterface(want)
	if err != nil {
		return nil, err
	}
	files, err := tun.Open(tun.Options{Name: name, Queues: want.Queues})
	if err != nil {
		return nil, netdev.TUNProblem(err)
	}
	if err := netdev.Configure(name, want.Addrs); err != nil {
		fds.CloseAll(files)
		return nil, err
	}
	d := net.Dialer{}
	return &Attachment{
		Interface: name, Files: files, Seam: true, Dial: d.DialContext, Ping: netdev.Ping,
		Lock:    func(_ context.Context, on bool) error { return netdev.LockMTU(name, want.Addrs, on) },
		Abort:   func(context.Context) error { return netdev.Abort(want.Addrs) },
		Blocked: firewall.Probe,
	}, nil
}

func pickInterface(want LinkOptions) (string, error) {
	if want.Interface != "" {
		if netdev.Exists(want.Interface) {
			return "", fmt.Errorf("interface %s exists already; choose another for link.interface, or leave the key out", want.Interface)
		}
		return want.Interface, nil
	}
	if want.Prefer != "" && !netdev.Exists(want.Prefer) {
		return want.Prefer, nil
	}
	for i := range maxLinks {
		if name := "toe" + strconv.Itoa(i); !netdev.Exists(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no free interface name: toe0 to toe%d exist", maxLinks-1)
}
