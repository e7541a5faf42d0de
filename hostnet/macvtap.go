package hostnet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/link/tun"
)

// macvtap is a macvtap on a lower device. It outlives this process.
type macvtap struct {
	Name  string           `json:"name"` // of portInterface: this card's own
	Lower string           `json:"lower"`
	MAC   net.HardwareAddr `json:"mac"`
	MTU   int              `json:"mtu"`
}

func (m *macvtap) Make() error {
	if err := m.Undo(); err != nil { // one that was left
		return err
	}
	lower, err := netlink.LinkByName(m.Lower)
	if err != nil {
		return fmt.Errorf("interface %s: %w", m.Lower, err)
	}
	attrs := netlink.NewLinkAttrs() // not a literal: that would ask for a queue of no packets
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = m.Name, lower.Attrs().Index, m.MAC
	attrs.MTU = min(m.MTU, lower.Attrs().MTU)
	l := &netlink.Macvtap{
		Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE},
	}
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("macvtap %s on %s: %w", m.Name, m.Lower, err)
	}
	return nil
}

// Undo removes the interface, unless another kind of interface has its name or
// it has another address.
func (m *macvtap) Undo() error {
	l, err := netlink.LinkByName(m.Name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", m.Name, err)
	}
	if l.Type() != "macvtap" || l.Attrs().HardwareAddr.String() != m.MAC.String() {
		return nil
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("remove interface %s: %w", m.Name, err)
	}
	return nil
}

func (m *macvtap) Lasts() bool { return false }

// macvtap makes a macvtap for a port, with the card's own address.
func (h *Host) macvtap(p spec.Port, mac net.HardwareAddr) (*Attachment, error) {
	name := h.portInterface(p)
	undo, err := h.do(&macvtap{Name: name, Lower: p.Attach.Name, MAC: mac, MTU: p.MTU})
	if err != nil {
		return nil, err
	}
	f, err := h.openMacvtap(name)
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return &Attachment{Interface: name, Files: []*os.File{f}, Close: undo}, nil
}

// openMacvtap opens the character device of a macvtap by its number, because
// /dev of a container may lack it.
func (h *Host) openMacvtap(name string) (*os.File, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("interface %s: up: %w", name, err)
	}
	number, err := os.ReadFile(fmt.Sprintf("/sys/class/net/%s/tap%d/dev", name, l.Attrs().Index))
	if err != nil {
		return nil, fmt.Errorf("macvtap %s has no character device: %w", name, err)
	}
	maj, min, _ := strings.Cut(strings.TrimSpace(string(number)), ":")
	major, err1 := strconv.ParseUint(maj, 10, 32)
	minor, err2 := strconv.ParseUint(min, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	node := filepath.Join(h.card.Paths.Runtime, name+".tap")
	device := int(unix.Mkdev(uint32(major), uint32(minor)))
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, device); err != nil {
		return nil, fmt.Errorf("mknod %s: %w", node, err)
	}
	defer os.Remove(node)
	return setupMacvtap(node, name)
}

func setupMacvtap(node, name string) (*os.File, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open macvtap %s: %w", name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = tun.Header(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("macvtap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "macvtap:"+name), nil
}
