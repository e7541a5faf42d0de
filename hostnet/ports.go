package hostnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/suggest"
	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/machine"
)

// netnsDir is where ip-netns(8) keeps named network namespaces.
const netnsDir = "/run/netns"

// CheckPort returns what is wrong with the attachment of a port.
func (h *Host) CheckPort(p spec.Port) error {
	a := p.Attach
	switch a.Kind {
	case spec.AttachUser:
		return nil
	case spec.AttachTAP:
		if err := checkTAP(a.Name); err != nil {
			return fmt.Errorf("attach %s: %w", a, err)
		}
		return nil
	}
	if !netAdmin() {
		return fmt.Errorf("attach %s: needs root (CAP_NET_ADMIN); without it there are attach: user, and tap:NAME with a tap that is yours (%s)", a, makeTAP("NAME"))
	}
	switch a.Kind {
	case spec.AttachBridge:
		return h.checkLower(a, "bridge", "a bridge")
	case spec.AttachMacvtap:
		return h.checkLower(a, "", "an interface")
	case spec.AttachNetns:
		if _, err := os.Stat(filepath.Join(netnsDir, a.Name)); err != nil {
			return fmt.Errorf("attach %s: there is no network namespace %s; `ip netns add %s` makes it%s", a, a.Name, a.Name, suggest.DidYouMean(a.Name, entries(netnsDir)...))
		}
		return inNetns(a.Name, func() error { return checkTAP(a.Device) })
	}
	return fmt.Errorf("attach %s: unknown", a)
}

// checkLower wants an existing interface, of a kind unless that is empty.
func (h *Host) checkLower(a spec.Attach, kind, what string) error {
	l, err := netlink.LinkByName(a.Name)
	if err != nil {
		return fmt.Errorf("attach %s: there is no interface %s%s", a, a.Name, suggest.DidYouMean(a.Name, interfaces()...))
	}
	if kind != "" && l.Type() != kind {
		return fmt.Errorf("attach %s: %s is not %s but a %s", a, a.Name, what, l.Type())
	}
	return nil
}

func entries(dir string) []string {
	list, _ := os.ReadDir(dir)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func interfaces() []string {
	list, _ := net.Interfaces()
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// checkTAP wants a TAP that is not in use and that the caller may use, or no
// interface of that name and the right to make one.
func checkTAP(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if !netAdmin() {
			return fmt.Errorf("there is no interface %s, and to make one needs root; %s makes one for you%s", name, makeTAP(name), suggest.DidYouMean(name, interfaces()...))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	t, ok := l.(*netlink.Tuntap)
	if !ok || t.Mode != unix.IFF_TAP {
		return fmt.Errorf("interface %s exists and is a %s, not a tap; give a tap, or a name that is free", name, l.Type())
	}
	if l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 && l.Attrs().OperState == netlink.OperUp {
		return fmt.Errorf("interface %s is in use by another process", name)
	}
	if netAdmin() {
		return nil
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("interface %s is down; fix: `sudo ip link set %s up`", name, name)
	}
	return tryTAP(name)
}

// tryTAP finds out whether a TAP is the caller's, by opening it.
func tryTAP(name string) error {
	files, err := tun.Open(tun.Options{Name: name, Queues: 1, TAP: true})
	if errors.Is(err, tun.ErrNotPermitted) {
		return fmt.Errorf("interface %s is not yours (user %d); `sudo ip tuntap del mode tap name %s` and %s make it so", name, os.Geteuid(), name, makeTAP(name))
	}
	if err != nil {
		return netdev.TUNProblem(err)
	}
	fds.CloseAll(files)
	return nil
}

// makeTAP is the line by which root makes a TAP for the caller.
func makeTAP(name string) string {
	return fmt.Sprintf("`sudo ip tuntap add mode tap user %d name %s && sudo ip link set %s up`", os.Geteuid(), name, name)
}

// netAdmin reports whether this process has CAP_NET_ADMIN: as root, or as an ordinary user in a
// separate user namespace. Whether it is valid for the current network namespace shows when it is
// used.
func netAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&hdr, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// Port opens where a port leads.
func (h *Host) Port(ctx context.Context, p spec.Port, mac net.HardwareAddr, kind machine.Kind) (*Attachment, error) {
	switch p.Attach.Kind {
	case spec.AttachUser:
		att, err := h.userPort(ctx, p)
		if errors.Is(err, passt.ErrMissing) && kind != machine.UML && !h.card.Spec.Link.DefaultRoute {
			return nil, nil // QEMU has something of its own
		}
		return att, err
	case spec.AttachTAP:
		return h.openTAP(tapOptions{name: p.Attach.Name, mtu: p.MTU})
	case spec.AttachBridge:
		return h.openTAP(tapOptions{name: h.portInterface(p), mtu: p.MTU, bridge: p.Attach.Name})
	case spec.AttachMacvtap:
		return h.macvtap(p, mac)
	case spec.AttachNetns:
		var att *Attachment
		err := inNetns(p.Attach.Name, func() (err error) {
			att, err = h.openTAP(tapOptions{name: p.Attach.Device, mtu: p.MTU, netns: p.Attach.Name})
			return err
		})
		return att, err
	}
	return nil, fmt.Errorf("attach %s: unknown", p.Attach)
}

// interfacePrefix begins the names of interfaces that toe makes for ports.
const interfacePrefix = "toe-"

// portInterface is the name of an interface that we make for a port: the
// same at each start, of at most 15 bytes.
func (h *Host) portInterface(p spec.Port) string {
	sum := sha256.Sum256([]byte(h.card.Name + "\x00" + p.Name))
	return interfacePrefix + hex.EncodeToString(sum[:4])
}

// tapOptions are the TAP of a port, in the calling thread's network namespace.
type tapOptions struct {
	name   string
	mtu    int    // of one that is created
	bridge string // to put it on, or ""
	netns  string // name of the network namespace, "" for the host's
}

// openTAP opens a TAP, and creates it where there is none.
func (h *Host) openTAP(o tapOptions) (*Attachment, error) {
	existed := netdev.Exists(o.name)
	files, err := tun.Open(tun.Options{Name: o.name, Queues: 1, TAP: true})
	if err != nil {
		return nil, err
	}
	undo, err := h.configureTAP(o, existed)
	if err != nil {
		fds.CloseAll(files)
		return nil, err
	}
	return &Attachment{Interface: o.name, Files: files, Close: undo}, nil
}

// configureTAP brings a TAP up. undo is nil where nothing outlives its descriptor.
func (h *Host) configureTAP(o tapOptions, existed bool) (undo func() error, err error) {
	l, err := netlink.LinkByName(o.name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", o.name, err)
	}
	if !existed {
		if err := netlink.LinkSetMTU(l, o.mtu); err != nil {
			return nil, fmt.Errorf("interface %s: MTU %d: %w", o.name, o.mtu, err)
		}
	}
	if o.bridge != "" {
		if err := toBridge(l, o.bridge); err != nil {
			return nil, err
		}
	}
	change := &up{Netns: o.netns, Name: o.name, Index: l.Attrs().Index}
	switch {
	case l.Attrs().Flags&net.FlagUp != 0:
		return nil, nil // and no privilege is needed
	case existed:
		return h.do(change)
	}
	return nil, change.Make()
}

func toBridge(l netlink.Link, bridge string) error {
	name := l.Attrs().Name
	netdev.Quiet(name)
	b, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	if err := netlink.LinkSetHardwareAddr(l, bridgedMAC(name)); err != nil {
		return fmt.Errorf("interface %s: address: %w", name, err)
	}
	if err := netlink.LinkSetMaster(l, b); err != nil {
		return fmt.Errorf("put %s on bridge %s: %w", name, bridge, err)
	}
	return nil
}

// bridgedMAC is for our end of a TAP on a bridge. A bridge takes the lowest
// address of its ports for its own, so that a random one would change the
// host's there; this one is higher than any device's.
func bridgedMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0xfe, sum[0], sum[1], sum[2], sum[3], sum[4]}
}
