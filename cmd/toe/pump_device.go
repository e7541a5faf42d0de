package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/hostid"
	"github.com/toe-project/toe/link/frame"
)

// announced is what a front end reads in the configuration space of its device.
type announced struct {
	mac net.HardwareAddr
	mtu int // bytes
}

// announce chooses them. A link has one address and one MTU, always. A port has the MTU of its
// TAP's network, and an address of its own there. Call it when the TAP is open.
func (f pumpFlags) announce() (announced, error) {
	if !f.tap {
		return announced{net.HardwareAddr{2, 't', 'o', 'e', 0, 1}, frame.MaxPacket}, nil
	}
	l, err := netlink.LinkByName(f.iface)
	if err != nil {
		return announced{}, fmt.Errorf("interface %s: %w", f.iface, err)
	}
	tap := l.Attrs()
	a := announced{f.hardwareAddr, f.mtu}
	if a.mtu == 0 {
		a.mtu = min(tap.MTU, frame.MaxPacket)
	}
	if a.mtu > tap.MTU {
		return a, cli.Usagef("pump: --mtu %d: want at most %d, the MTU of %s; fix: ip link set %s mtu %d",
			a.mtu, tap.MTU, f.iface, f.iface, a.mtu)
	}
	if a.mac == nil {
		a.mac = tapMAC(hostid.ID(), tap)
	} else if bytes.Equal(a.mac, tap.HardwareAddr) {
		return a, cli.Usagef("pump: --mac %s: want another address than that of %s itself", a.mac, f.iface)
	}
	return a, nil
}

// tapMAC derives the address of the device behind a TAP: locally administered, and the same at each
// start for one name on one host. Without an identity of the host it changes with the TAP's own.
func tapMAC(host []byte, tap *netlink.LinkAttrs) net.HardwareAddr {
	if len(host) == 0 {
		host = tap.HardwareAddr
	}
	for n := byte(0); ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "toe pump mac\x00%s\x00%s\x00%d", host, tap.Name, n))
		if mac := (net.HardwareAddr{2, sum[0], sum[1], sum[2], sum[3], sum[4]}); !bytes.Equal(mac, tap.HardwareAddr) {
			return mac
		}
	}
}

// checkAnnounced checks --mtu and --mac as far as the host does not matter, and parses the latter.
func (f *pumpFlags) checkAnnounced() error {
	if !f.tap && (f.mtu != 0 || f.mac != "") {
		return errors.New("--mtu and --mac are for --tap: a link has an MTU of 65535 and one address, always")
	}
	if f.mtu != 0 && (f.mtu < 68 || f.mtu > frame.MaxPacket) {
		return fmt.Errorf("--mtu %d: want 68 to %d", f.mtu, frame.MaxPacket)
	}
	if f.mac == "" {
		return nil
	}
	mac, err := net.ParseMAC(f.mac)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return fmt.Errorf("--mac %q: want a unicast address of 6 bytes, such as 02:00:00:00:00:01", f.mac)
	}
	f.hardwareAddr = mac
	return nil
}

// giveMTU gives a TUN the MTU of a link. An interface that may not be changed stays as it is, and
// the user is told.
func giveMTU(iface string, say func(string, ...any)) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	before := l.Attrs().MTU
	if before == frame.MaxPacket {
		return nil
	}
	err = netlink.LinkSetMTU(l, frame.MaxPacket)
	if errors.Is(err, unix.EPERM) {
		say("its MTU stays %d: not permitted to change it; root can: ip link set %s mtu %d", before, iface, frame.MaxPacket)
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: MTU %d: %w", iface, frame.MaxPacket, err)
	}
	say("MTU %d, was %d", frame.MaxPacket, before)
	return nil
}
