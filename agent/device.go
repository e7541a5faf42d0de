package agent

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// errNoDevice may pass: the device may come later.
var errNoDevice = errors.New("no device has this address")

// borrowing are the kinds of devices that may have the address of a lower device.
var borrowing = map[string]bool{
	"vlan": true, "macvlan": true, "macvtap": true, "ipvlan": true, "bridge": true, "bond": true,
}

// findDevice returns the Ethernet device whose present or permanent address is
// mac. Errors: errNoDevice.
func findDevice(nl *netlink.Handle, mac string) (netlink.Link, error) {
	all, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list of devices: %w", err)
	}
	for _, dev := range all {
		a := dev.Attrs()
		if !borrowing[dev.Type()] && (a.HardwareAddr.String() == mac || a.PermHWAddr.String() == mac) {
			return dev, nil
		}
	}
	return nil, fmt.Errorf("MAC %s: %w", mac, errNoDevice)
}

// nameDevice finds a device by its MAC address and renames it. A device that
// has the name already stays up. Errors: errNoDevice.
func nameDevice(nl *netlink.Handle, mac, name string) (netlink.Link, error) {
	dev, err := findDevice(nl, mac)
	if err != nil {
		return nil, err
	}
	if dev.Attrs().Name == name {
		return dev, nil
	}
	if err := nl.LinkSetDown(dev); err != nil {
		return nil, fmt.Errorf("set %s down to rename it: %w", dev.Attrs().Name, err)
	}
	if err := nl.LinkSetName(dev, name); err != nil {
		return nil, fmt.Errorf("rename %s to %s: %w", dev.Attrs().Name, name, err)
	}
	dev.Attrs().Name = name
	return dev, nil
}

func setMTU(nl *netlink.Handle, dev netlink.Link, mtu int) error {
	if dev.Attrs().MTU == mtu {
		return nil
	}
	if err := nl.LinkSetMTU(dev, mtu); err != nil {
		return fmt.Errorf("MTU %d on %s: %w", mtu, dev.Attrs().Name, err)
	}
	dev.Attrs().MTU = mtu
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: netlink.NewIPNet(p.Addr().AsSlice())}
	a.IPNet = ipNet(p)
	return a
}

func addAddress(nl *netlink.Handle, dev netlink.Link, p netip.Prefix, flags int) error {
	a := address(p)
	a.Flags = flags
	if err := nl.AddrReplace(dev, a); err != nil {
		return fmt.Errorf("address %s on %s: %w", p, dev.Attrs().Name, err)
	}
	return nil
}

// removeAddress succeeds if the address is gone already.
func removeAddress(nl *netlink.Handle, dev netlink.Link, p netip.Prefix) error {
	err := nl.AddrDel(dev, address(p))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove address %s from %s: %w", p, dev.Attrs().Name, err)
	}
	return nil
}

// addresses lists a device's usable addresses, without link-local ones.
func addresses(nl *netlink.Handle, dev netlink.Link) []netip.Prefix {
	list, err := nl.AddrList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		unusable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0
		if !ok || unusable || ip.Is6() && ip.Unmap().IsLinkLocalUnicast() {
			continue
		}
		ones, _ := a.Mask.Size()
		out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
	}
	return out
}
