package agent

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"

	"github.com/toe-project/toe/control"
)

// TestAdvertisedLink: a router on the wire advertises the host's own address
// on the link as a prefix of the wire. What is for the host still goes there.
func TestAdvertisedLink(t *testing.T) {
	host, wire := newSpace(t), newSpace(t)
	cable(t, "cable1", "02:00:00:00:00:44", host, "toe0", "")
	cable(t, "cable2", wanMAC, wire, "srv", "")
	nl, log := handle(t), NewLog(t.Output())
	sys := sysctls{"/proc/sys", log}
	sys.late(256 << 20)
	victim := netip.MustParseAddr("fd74:6f65::2")
	l := newLink(control.Link{
		Name: "pci0", MAC: "02:00:00:00:00:44",
		Card: []netip.Prefix{prefix("fd74:6f65::3/127")}, Host: []netip.Addr{victim},
	}, nl, sys)
	if err := l.up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if dev, err := nl.LinkByName("pci0"); err == nil {
			_ = nl.LinkDel(dev)
		}
	})
	p := newPort(control.Port{Name: "wan", MAC: wanMAC, Addresses: []string{control.RA}}, nl, sys, log)
	if err := p.configure(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	defer p.remove()
	wan, err := nl.LinkByName("wan")
	if err != nil {
		t.Fatal(err)
	}
	link, err := nl.LinkByName("pci0")
	if err != nil {
		t.Fatal(err)
	}

	// RFC 4861, sections 4.2 and 4.6.2: a router of half an hour, and a
	// prefix of 128 bits that is on the wire for as long.
	ra := []byte{icmpRouterAdvertisement, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 128, 0x80}
	ra = binary.BigEndian.AppendUint32(ra, 1800)
	ra = binary.BigEndian.AppendUint32(ra, 1800)
	ra = append(append(ra, 0, 0, 0, 0), victim.AsSlice()...)
	eventually(t, 8*time.Second, "the wire's route to the host's address", func() error {
		wire.in(func() error {
			conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			pc := ipv6.NewPacketConn(conn)
			dev, err := net.InterfaceByName("srv")
			if err != nil {
				return err
			}
			_ = pc.SetMulticastHopLimit(255)
			cm := &ipv6.ControlMessage{HopLimit: 255, IfIndex: dev.Index}
			// This fails while srv has no address; the loop tries again.
			_, _ = pc.WriteTo(ra, cm, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "srv"})
			return nil
		})
		time.Sleep(100 * time.Millisecond)
		list, err := nl.RouteList(wan, netlink.FAMILY_V6)
		for _, r := range list {
			if r.Dst != nil && r.Dst.IP.Equal(victim.AsSlice()) {
				return nil
			}
		}
		return errors.Join(err, errors.New("not taken"))
	})
	way, err := nl.RouteGet(victim.AsSlice())
	if err != nil || len(way) == 0 || way[0].LinkIndex != link.Attrs().Index {
		t.Errorf("the way to the host is %v, %v; it should be by device %d", way, err, link.Attrs().Index)
	}
}
