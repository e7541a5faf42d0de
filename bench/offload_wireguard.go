package bench

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const tunnelDevice = "wg0"

// tunnelEnd is one end of WireGuard.
type tunnelEnd struct {
	Address netip.Prefix `json:"address"`
	Key     []byte       `json:"key"`            // private, 32 bytes
	Port    uint16       `json:"port,omitempty"` // to listen on, 0 for any
	Peers   []tunnelPeer `json:"peers"`
}

type tunnelPeer struct {
	Key      []byte         `json:"key"` // public
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	Allowed  netip.Prefix   `json:"allowed"`
}

// tunnelKeys makes a pair.
func tunnelKeys() (private, public []byte, err error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return k.Bytes(), k.PublicKey().Bytes(), nil
}

// tunnels are the three ends of a run: the world with the card, and with the
// host.
func tunnels() (world, card, host tunnelEnd, err error) {
	var public [3][]byte
	ends := []*tunnelEnd{&world, &card, &host}
	for i, address := range []string{tunnelWorld, tunnelCard, tunnelHost} {
		ends[i].Address = netip.PrefixFrom(mustAddr(address), 32)
		if ends[i].Key, public[i], err = tunnelKeys(); err != nil {
			return world, card, host, fmt.Errorf("keys of a tunnel: %w", err)
		}
	}
	world.Port = tunnelPort
	for i, end := range ends[1:] {
		world.Peers = append(world.Peers, tunnelPeer{Key: public[i+1], Allowed: end.Address})
		end.Peers = []tunnelPeer{{
			Key: public[0], Allowed: world.Address, Endpoint: netip.AddrPortFrom(mustAddr(worldAddr), tunnelPort),
		}}
	}
	return world, card, host, nil
}

// tunnelFrom reads a tunnel, a line of JSON, and makes it in user space. rest is the input behind
// it.
func tunnelFrom(in io.Reader) (stop func(), rest io.Reader, err error) {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return nil, nil, fmt.Errorf("a tunnel on standard input: %w", err)
	}
	var end tunnelEnd
	if err := json.Unmarshal(line, &end); err != nil {
		return nil, nil, fmt.Errorf("a tunnel on standard input: %w", err)
	}
	stop, err = end.inUserSpace()
	return stop, lines, err
}

// tunnelServe is an end of WireGuard in user space for as long as standard
// input is open.
func tunnelServe(in io.Reader, out io.Writer) error {
	stop, rest, err := tunnelFrom(in)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintln(out, "ready")
	_, _ = io.Copy(io.Discard, rest)
	return nil
}

// inUserSpace makes the end in the calling process, for a host whose kernel has no WireGuard.
func (t tunnelEnd) inUserSpace() (stop func(), err error) {
	dev, err := tun.CreateTUN(tunnelDevice, tunnelMTU)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", tunnelDevice, err)
	}
	wg := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	err = wg.IpcSet(t.ipc())
	if err == nil {
		err = wg.Up()
	}
	if err == nil {
		err = t.setUp()
	}
	if err != nil {
		wg.Close()
		return nil, fmt.Errorf("WireGuard in user space: %w", err)
	}
	return wg.Close, nil
}

// ipc is the end in the format of WireGuard's cross-platform interface.
func (t tunnelEnd) ipc() string {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\n", hex.EncodeToString(t.Key))
	if t.Port != 0 {
		fmt.Fprintf(&b, "listen_port=%d\n", t.Port)
	}
	for _, p := range t.Peers {
		fmt.Fprintf(&b, "public_key=%s\nallowed_ip=%s\n", hex.EncodeToString(p.Key), p.Allowed)
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
	}
	return b.String()
}

// setUp gives the device its address, and the routes to its peers.
func (t tunnelEnd) setUp() error {
	l, err := netlink.LinkByName(tunnelDevice)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(t.Address)}); err != nil {
		return fmt.Errorf("address %s: %w", t.Address, err)
	}
	if err := netlink.LinkSetMTU(l, tunnelMTU); err != nil {
		return fmt.Errorf("MTU %d: %w", tunnelMTU, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, p := range t.Peers {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p.Allowed), Scope: netlink.SCOPE_LINK, Src: t.Address.Addr().AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s: %w", p.Allowed, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// inKernel makes the end with the kernel's own WireGuard.
func (t tunnelEnd) inKernel() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = tunnelDevice
	if err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("interface %s of type wireguard: %w", tunnelDevice, err)
	}
	if err := t.configureKernel(); err != nil {
		return fmt.Errorf("WireGuard in the kernel: %w", err)
	}
	return t.setUp()
}

// Of linux/wireguard.h.
const (
	wgSetDevice       = 1 // WG_CMD_SET_DEVICE
	wgVersion         = 1
	wgDeviceName      = 2 // WGDEVICE_A_IFNAME
	wgDevicePrivate   = 3 // WGDEVICE_A_PRIVATE_KEY
	wgDevicePeers     = 8 // WGDEVICE_A_PEERS
	wgPeerPublic      = 1 // WGPEER_A_PUBLIC_KEY
	wgPeerEndpoint    = 4 // WGPEER_A_ENDPOINT
	wgPeerAllowed     = 9 // WGPEER_A_ALLOWEDIPS
	wgAllowedFamily   = 1 // WGALLOWEDIP_A_FAMILY
	wgAllowedAddress  = 2 // WGALLOWEDIP_A_IPADDR
	wgAllowedMaskBits = 3 // WGALLOWEDIP_A_CIDR_MASK
)

// genlHeader is struct genlmsghdr: command, version, and two reserved bytes
// that have to be 0.
type genlHeader [4]byte

// Len and Serialize implement nl.NetlinkRequestData.
func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

func (t tunnelEnd) configureKernel() error {
	family, err := netlink.GenlFamilyGet("wireguard")
	if err != nil {
		return fmt.Errorf("netlink family wireguard: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(genlHeader{wgSetDevice, wgVersion, 0, 0})
	req.AddData(nl.NewRtAttr(wgDeviceName, nl.ZeroTerminated(tunnelDevice)))
	req.AddData(nl.NewRtAttr(wgDevicePrivate, t.Key))
	peers := nl.NewRtAttr(wgDevicePeers|unix.NLA_F_NESTED, nil)
	for _, p := range t.Peers {
		p.attributes(peers.AddRtAttr(unix.NLA_F_NESTED, nil))
	}
	req.AddData(peers)
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

func (p tunnelPeer) attributes(to *nl.RtAttr) {
	to.AddRtAttr(wgPeerPublic, p.Key)
	if p.Endpoint.IsValid() {
		to.AddRtAttr(wgPeerEndpoint, sockaddrIn(p.Endpoint))
	}
	one := to.AddRtAttr(wgPeerAllowed|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NLA_F_NESTED, nil)
	one.AddRtAttr(wgAllowedFamily, binary.NativeEndian.AppendUint16(nil, unix.AF_INET))
	one.AddRtAttr(wgAllowedAddress, p.Allowed.Addr().AsSlice())
	one.AddRtAttr(wgAllowedMaskBits, []byte{byte(p.Allowed.Bits())})
}

// sockaddrIn is struct sockaddr_in of an IPv4 address.
func sockaddrIn(a netip.AddrPort) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	b = append(b, a.Addr().AsSlice()...)
	return append(b, make([]byte, 8)...)
}
