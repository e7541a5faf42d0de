package card

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/link/tun"
)

// Host is the Network of this machine.
type Host struct {
	card *Card
	logf func(format string, args ...any)
}

// NewHost is the host's side of card c. logf gets what child processes say.
func NewHost(c *Card, logf func(string, ...any)) *Host { return &Host{c, logf} }

var _ Network = (*Host)(nil)

// maxLinks bounds the search for a free interface name.
const maxLinks = 1000

// Link makes the TUN in the host's network namespace. It goes away with its
// last descriptor, whatever happens to this process.
func (h *Host) Link(_ context.Context, want LinkWant) (*Attachment, error) {
	// One at a time, or two cards that start together would both find the
	// same name free and be put on one interface.
	l, err := flock.Wait(filepath.Join(h.card.dirs.State, ".lock"))
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
		return nil, tunProblem(err)
	}
	if err := configureLink(name, want.Addrs); err != nil {
		closeAll(files)
		return nil, err
	}
	d := net.Dialer{}
	return &Attachment{
		Interface: name, Files: files, Seam: true, Dial: d.DialContext, Ping: pingFull,
		Lock:  func(_ context.Context, on bool) error { return lockMTU(name, want.Addrs, on) },
		Abort: func(context.Context) error { return abortConnections(want.Addrs) },
	}, nil
}

// tunProblem adds what to do about a device that cannot be opened.
func tunProblem(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w; `toe doctor` says how to mend it", err)
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func interfaceExists(name string) bool {
	_, err := netlink.LinkByName(name) // not /sys, which may show another namespace
	return err == nil
}

func pickInterface(want LinkWant) (string, error) {
	if want.Interface != "" {
		if interfaceExists(want.Interface) {
			return "", fmt.Errorf("interface %s exists already; choose another for link.interface, or leave the key out", want.Interface)
		}
		return want.Interface, nil
	}
	if want.Prefer != "" && !interfaceExists(want.Prefer) {
		return want.Prefer, nil
	}
	for i := range maxLinks {
		if name := "toe" + strconv.Itoa(i); !interfaceExists(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no free interface name: toe0 to toe%d exist", maxLinks-1)
}

// configureLink brings the interface up with MTU 65535 and the host's
// addresses. A kernel without IPv6 gets along with IPv4 alone.
func configureLink(name string, a LinkAddrs) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	quietIPv6(name)
	if err := netlink.LinkSetMTU(l, linkMTU); err != nil {
		return fmt.Errorf("interface %s: MTU %d: %w", name, linkMTU, err)
	}
	for _, p := range a.Host() {
		err := netlink.AddrAdd(l, &netlink.Addr{IPNet: toIPNet(p)})
		if err != nil && (p.Addr().Is4() || hasIPv6()) {
			return fmt.Errorf("interface %s: address %s: %w", name, p, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("interface %s: up: %w", name, err)
	}
	return nil
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// quietIPv6 keeps the kernel from saying anything on the link by itself: no
// link-local address, no router solicitation. What cannot be set is absent.
func quietIPv6(name string) {
	dir := "/proc/sys/net/ipv6/conf/" + name
	for _, kv := range [][2]string{{"disable_ipv6", "0"}, {"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"accept_dad", "0"}} {
		_ = os.WriteFile(filepath.Join(dir, kv[0]), []byte(kv[1]), 0)
	}
}

// removeInterfaces deletes interfaces that we made and that would outlive us.
func removeInterfaces(names []string) error {
	var errs []error
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove interface %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
