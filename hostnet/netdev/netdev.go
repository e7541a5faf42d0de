// Package netdev is the host's end of a link: its interface, the routes over it
// and the connections through it, in the network namespace of the caller.
package netdev

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/link/tun"
)

// Configure brings the interface up with MTU 65535 and the host's
// addresses. On a kernel without IPv6 it sets the IPv4 ones only.
func Configure(name string, a store.LinkAddrs) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	Quiet(name)
	if err := netlink.LinkSetMTU(l, control.LinkMTU); err != nil {
		return fmt.Errorf("interface %s: MTU %d: %w", name, control.LinkMTU, err)
	}
	for _, p := range a.Host() {
		err := netlink.AddrAdd(l, &netlink.Addr{IPNet: IPNet(p)})
		if err != nil && (p.Addr().Is4() || HasIPv6()) {
			return fmt.Errorf("interface %s: address %s: %w", name, p, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("interface %s: up: %w", name, err)
	}
	return nil
}

// HasIPv6 reports whether the kernel has IPv6.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// Quiet keeps the kernel from sending on the interface by itself: no link-local
// address, no router solicitation. A kernel that lacks a setting needs none.
func Quiet(name string) {
	dir := "/proc/sys/net/ipv6/conf/" + name
	for _, kv := range [][2]string{{"disable_ipv6", "0"}, {"addr_gen_mode", "1"}, {"accept_ra", "0"}, {"accept_dad", "0"}} {
		_ = os.WriteFile(filepath.Join(dir, kv[0]), []byte(kv[1]), 0)
	}
}

// Exists reports whether the caller's network namespace has an interface of that name.
func Exists(name string) bool {
	_, err := netlink.LinkByName(name) // not /sys, which may show another namespace
	return err == nil
}

// IPNet returns p in the form that netlink takes.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// zero is 0.0.0.0 or ::, of the family of a.
func zero(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// TUNProblem adds what to do about a device that cannot be opened.
func TUNProblem(err error) error {
	if errors.Is(err, tun.ErrNotPermitted) && !privilege.Has(privilege.NetAdmin) {
		return privilege.Lacks("interface of the link", unix.EPERM, privilege.NetAdmin)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w; see `toe doctor`", err)
	}
	return err
}
