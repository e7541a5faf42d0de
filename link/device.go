// Package link joins a host to its card: it copies packets between the host's
// end of a device (a TUN, a TAP, a stream socket) and the rings of a
// virtio-net device whose driver runs on the card.
//
// Two processes share the work. The keeper (Keeper, in the supervisor's
// process or in `toe pump`) holds the vhost-user conversation and every
// descriptor. The pump (Pump, a confined process of its own) gets memory,
// ring addresses, kick and call descriptors and the host's end passed in, and
// copies. A pump that dies is replaced. The next one continues from the used
// index in the card's memory. The card, the interface on the host and the
// connections through them lose at most the packets that were in flight.
package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// Device describes one network device of a card to its back end.
type Device struct {
	Name   string           // for messages: "link", "exec", a port's name
	Socket string           // path of the vhost-user socket
	MAC    net.HardwareAddr // the card's end
	MTU    int              // bytes; a link has frame.MaxPacket
	// Files are the host's end, one per queue pair: of a TUN if Seam is
	// set, of a TAP if it is not, or one connected stream socket that
	// carries Ethernet frames behind 4 bytes of length (passt, QEMU).
	// NewKeeper takes ownership of them.
	Files  []*os.File
	Seam   bool
	Stream bool
	// Spin is how long after its last packet a pump keeps looking for more
	// before it sleeps, at most MaxSpin. It saves a wake-up and keeps one CPU per
	// queue pair busy meanwhile. Leave it 0 if CPUs are scarce.
	Spin time.Duration
	// NoMergeable disables the offer of mergeable receive buffers.
	NoMergeable bool
}

// MaxSpin bounds Device.Spin. A pump does not busy-wait longer for a card's answer.
const MaxSpin = 10 * time.Millisecond

func (d *Device) check() error {
	switch {
	case d.Spin < 0 || d.Spin > MaxSpin:
		return fmt.Errorf("device %s: spin of %s, want 0 to %s", d.Name, d.Spin, MaxSpin)
	case len(d.Files) < 1 || len(d.Files) > tun.MaxQueues:
		return fmt.Errorf("device %s: %d queue pairs, want 1 to %d", d.Name, len(d.Files), tun.MaxQueues)
	case d.Stream && (d.Seam || len(d.Files) != 1):
		return fmt.Errorf("device %s: a stream has one queue pair and no seam", d.Name)
	case len(d.MAC) != 6:
		return fmt.Errorf("device %s: MAC address %q, want 6 bytes", d.Name, d.MAC)
	case d.MTU < 68 || d.MTU > frame.MaxPacket:
		return fmt.Errorf("device %s: MTU %d, want 68 to %d", d.Name, d.MTU, frame.MaxPacket)
	}
	return nil
}

// features returns the virtio bits to offer, given the offloads that the host's end accepted. The
// offer is the same in both directions. Other back ends offer an offload that only one side
// supports and get links that are fast one way.
func (d *Device) features(o tun.Offload) uint64 {
	f := uint64(vhostuser.Version1 | vhostuser.RingIndirect | vhostuser.RingEventIdx |
		vhostuser.NetMAC | vhostuser.NetStatus | vhostuser.NetMTU)
	if !d.NoMergeable {
		f |= vhostuser.NetMergeable
	}
	if len(d.Files) > 1 {
		// QEMU has its own control ring. For User-Mode Linux the back end
		// serves it.
		f |= vhostuser.NetMQ | vhostuser.NetCtrlVQ
	}
	for _, b := range []struct {
		have tun.Offload
		bits uint64
	}{
		{tun.CSum, vhostuser.NetCSum | vhostuser.NetGuestCSum},
		{tun.TSO4, vhostuser.NetGuestTSO4 | vhostuser.NetHostTSO4},
		{tun.TSO6, vhostuser.NetGuestTSO6 | vhostuser.NetHostTSO6},
		{tun.ECN, vhostuser.NetGuestECN | vhostuser.NetHostECN},
		{tun.USO4 | tun.USO6, vhostuser.NetGuestUSO4 | vhostuser.NetGuestUSO6 | vhostuser.NetHostUSO},
	} {
		if o&b.have == b.have {
			f |= b.bits
		}
	}
	return f
}

// offload returns what the host's kernel may hand out, given what the driver accepted.
func offload(features uint64) (o tun.Offload) {
	for _, b := range []struct {
		bits uint64
		gets tun.Offload
	}{
		{vhostuser.NetGuestCSum, tun.CSum},
		{vhostuser.NetGuestTSO4, tun.TSO4},
		{vhostuser.NetGuestTSO6, tun.TSO6},
		{vhostuser.NetGuestECN, tun.ECN},
		{vhostuser.NetGuestUSO4 | vhostuser.NetGuestUSO6, tun.USO4 | tun.USO6},
	} {
		if features&b.bits == b.bits {
			o |= b.gets
		}
	}
	return o
}

// config is struct virtio_net_config, virtio 1.2 section 5.1.4:
//
//	0          6         8            10       12
//	+----------+---------+------------+--------+
//	| mac      | status  | max pairs  | mtu    |
//	+----------+---------+------------+--------+
func (d *Device) config() []byte {
	const linkUp = 1
	b := append([]byte(nil), d.MAC...)
	b = binary.LittleEndian.AppendUint16(b, linkUp)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(d.Files)))
	return binary.LittleEndian.AppendUint16(b, uint16(d.MTU))
}
