package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link/tun"
)

// ordersFD is the descriptor that orders come on.
const ordersFD = 3

// Main is the holder. It ends when its supervisor hangs up, and aborts the
// connections through an endpoint then: the namespace lives on in the programs
// that are in it.
func Main() error {
	orders := os.NewFile(ordersFD, "orders")
	if orders == nil {
		return errors.New("no orders on descriptor 3; only toe itself starts this")
	}
	sandbox.SetName("toe: exec")
	if err := sandbox.CloseInherited(ordersFD); err != nil {
		return err
	}
	var endpoint atomic.Pointer[store.LinkAddrs] // of the link, while it leads to one
	defer func() {
		if a := endpoint.Load(); a != nil {
			_ = netdev.Abort(*a)
		}
	}()
	for {
		var o order
		passed, err := fds.Receive(fds.Socket(orders.Fd()), &o, maxPacket, 1)
		if errors.Is(err, fds.ErrPacket) {
			continue
		}
		if err != nil {
			return nil
		}
		files := passedFiles(passed)
		if len(files) != 1 {
			fds.CloseAll(files)
			continue
		}
		if o.Op == "lock" {
			endpoint.Store(nil)
			if o.On {
				endpoint.Store(&o.Addrs)
			}
		}
		go func() {
			defer files[0].Close()
			out, err := o.execute()
			reply(files[0], out, err)
		}()
	}
}

func reply(to *os.File, out []*os.File, err error) {
	defer fds.CloseAll(out)
	var a answer
	if err != nil {
		a = answer{Error: err.Error(), Timeout: errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)}
	}
	_ = fds.Socket(to.Fd()).Send(a, out...)
}

func (o order) execute() ([]*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.Limit)
	defer cancel()
	switch o.Op {
	case "link":
		return makeExecLink(o)
	case "namespaces":
		return openNamespaces()
	case "dial":
		return dialFile(ctx, o.Network, o.Address)
	case "lock":
		return nil, netdev.LockMTU(Interface, o.Addrs, o.On)
	case "abort":
		return nil, netdev.Abort(o.Addrs)
	case "ping":
		card, err := netip.ParseAddr(o.Address)
		if err != nil {
			return nil, err
		}
		return nil, netdev.Ping(ctx, card)
	}
	return nil, fmt.Errorf("order %q: unknown", o.Op)
}

func dialFile(ctx context.Context, network, address string) ([]*os.File, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	return []*os.File{f}, nil
}

// openNamespaces opens this process's own, the network's first.
func openNamespaces() (files []*os.File, err error) {
	kinds := []string{"net"}
	if !store.Privileged() {
		kinds = append(kinds, "user")
	}
	for _, kind := range kinds {
		f, err := os.Open("/proc/self/ns/" + kind)
		if err != nil {
			fds.CloseAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// makeExecLink makes the namespace's network: loopback, the link, and default
// routes through the card.
func makeExecLink(o order) ([]*os.File, error) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	// ping(8) without privilege, for the groups that exist here.
	group := "0 2147483647"
	if !store.Privileged() {
		group = fmt.Sprintf("%d %d", os.Getegid(), os.Getegid())
	}
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(group), 0)
	files, err := tun.Open(tun.Options{Name: Interface, Queues: o.Queues})
	if err != nil {
		return nil, netdev.TUNProblem(err)
	}
	if err := netdev.Configure(Interface, o.Addrs); err != nil {
		fds.CloseAll(files)
		return nil, err
	}
	l, err := netlink.LinkByName(Interface)
	for _, card := range o.Addrs.CardAddrs() {
		if err != nil {
			break
		}
		way := netdev.DefaultVia(l.Attrs().Index, card, unix.RT_TABLE_MAIN)
		err = netlink.RouteAdd(&way)
		if card.Is6() && !netdev.HasIPv6() {
			err = nil
		}
	}
	if err != nil {
		fds.CloseAll(files)
		return nil, fmt.Errorf("default route: %w", err)
	}
	return files, nil
}
