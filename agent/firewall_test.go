package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	hostMAC = "02:00:00:00:00:01"
	cardIP  = "10.116.0.1"
	hostIP  = "10.116.0.0"
	card6   = "fd74:6f65::1"
	host6   = "fd74:6f65::"
	wireIP  = "192.0.2.1"
	wire6   = "2001:db8::1"
)

// crossing is a host and a server on the wire with the test's own namespace
// as the card between them, addressed and forwarding, firewall up.
func crossing(t *testing.T, r rules) (host, wire *space) {
	t.Helper()
	host, wire = newSpace(t), newSpace(t)
	cable(t, "pci0", hostMAC, host, "toe0", "")
	cable(t, "wan", wanMAC, wire, "srv", "")
	log := NewLog(t.Output())
	sys := sysctls{"/proc/sys", log}
	sys.late(256 << 20)
	nl := handle(t)
	up := func(name, prefix4, prefix6 string) {
		dev, err := nl.LinkByName(name)
		if err == nil {
			err = nl.LinkSetUp(dev)
		}
		for _, p := range []string{prefix4, prefix6} {
			if err == nil {
				err = addAddress(nl, dev, prefix(p), unix.IFA_F_NODAD)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sys.forPort("wan", false)
	up("pci0", cardIP+"/31", card6+"/127")
	up("wan", "192.0.2.2/24", "2001:db8::2/64")
	host.address("toe0", hostIP+"/31")
	host.address("toe0", host6+"/127")
	host.route("toe0", "0.0.0.0/0", cardIP)
	host.route("toe0", "::/0", card6)
	wire.address("srv", wireIP+"/24")
	wire.address("srv", wire6+"/64")
	// The wire knows a way to the host: only the firewall keeps it out.
	wire.route("srv", "10.116.0.0/31", "192.0.2.2")
	wire.route("srv", "fd74:6f65::/127", "2001:db8::2")
	if err := (nftFirewall{}).apply(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dropTable)
	return host, wire
}

func dropTable() { _ = exec.Command("nft", "delete", "table", "inet", tableName).Run() }

var both = rules{links: []string{"pci0"}, ports: []string{"wan"}, nat: true}

// echoPeer answers each client with its address.
func echoPeer(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
		_ = c.Close()
	}
}

func seenAs(s *space, network, address string) (string, error) {
	c, err := s.dial(network, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestNAT(t *testing.T) {
	host, wire := crossing(t, both)
	for _, tt := range []struct{ network, at, want string }{
		{"tcp4", wireIP, "192.0.2.2"},
		{"tcp6", wire6, "2001:db8::2"},
	} {
		ln := wire.listen(tt.network, net.JoinHostPort(tt.at, "8080"))
		go echoPeer(ln)
		eventually(t, 3*time.Second, tt.network, func() error {
			got, err := seenAs(host, tt.network, ln.Addr().String())
			if err == nil && got != tt.want {
				err = fmt.Errorf("the server sees %s, want %s", got, tt.want)
			}
			return err
		})
	}
}

func TestNoNAT(t *testing.T) {
	r := both
	r.nat = false
	host, wire := crossing(t, r)
	ln := wire.listen("tcp4", wireIP+":8080")
	go echoPeer(ln)
	eventually(t, 3*time.Second, "routed", func() error {
		got, err := seenAs(host, "tcp4", ln.Addr().String())
		if err == nil && got != hostIP {
			err = fmt.Errorf("the server sees %s, want %s", got, hostIP)
		}
		return err
	})
}

// TestWireIsKeptOut: nothing new from a port, neither to the card's addresses
// (the link's too) nor through it; ICMP is answered.
func TestWireIsKeptOut(t *testing.T) {
	host, wire := crossing(t, both)
	go echoPeer(host.listen("tcp4", hostIP+":9"))
	ln, err := net.Listen("tcp", "0.0.0.0:9") // the card itself, every address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go echoPeer(ln)
	if _, err := seenAs(host, "tcp4", cardIP+":9"); err != nil {
		t.Errorf("the host is kept out: %v", err)
	}
	for _, at := range []string{"192.0.2.2:9", cardIP + ":9", hostIP + ":9"} {
		if err := wire.refused(at); err != nil {
			t.Errorf("from the wire: %v", err)
		}
	}
	for _, at := range []string{"192.0.2.2", "2001:db8::2"} {
		wire.in(func() error {
			out, err := exec.Command("ping", "-c", "1", "-W", "2", at).CombinedOutput()
			if err != nil {
				t.Errorf("ping %s from the wire: %v\n%s", at, err, out)
			}
			return nil
		})
	}
}

// TestFirewallReplacesOnlyItself: an administrator's own rules survive ours.
func TestFirewallReplacesOnlyItself(t *testing.T) {
	needNamespace(t)
	t.Cleanup(dropTable)
	nft := func(args ...string) string {
		out, err := exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			t.Skipf("nft %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	nft("add", "table", "ip", "mine")
	defer nft("delete", "table", "ip", "mine")
	for _, r := range []rules{both, {links: []string{"pci0"}, ports: []string{"lan"}}} {
		if err := (nftFirewall{}).apply(r); err != nil {
			t.Fatal(err)
		}
	}
	all := nft("list", "ruleset")
	if !strings.Contains(all, "table ip mine") {
		t.Errorf("a foreign table is gone:\n%s", all)
	}
	if strings.Contains(all, "wan") || !strings.Contains(all, "lan") || strings.Contains(all, "masquerade") {
		t.Errorf("old rules are left, or new ones missing:\n%s", all)
	}
	if n := strings.Count(all, "policy drop"); n != 2 {
		t.Errorf("%d chains drop by default, want 2:\n%s", n, all)
	}
}

// TestMSSClamp: the segment size that the host's 64K link makes it announce
// does not reach a wire of 1500 bytes.
func TestMSSClamp(t *testing.T) {
	host, wire := crossing(t, both)
	nl := handle(t)
	dev, err := nl.LinkByName("pci0")
	if err == nil {
		err = nl.LinkSetMTU(dev, 65535)
	}
	if err != nil {
		t.Fatal(err)
	}
	hostDev, err := host.nl.LinkByName("toe0")
	if err == nil {
		err = host.nl.LinkSetMTU(hostDev, 65535)
	}
	if err != nil {
		t.Fatal(err)
	}
	ln := wire.listen("tcp4", wireIP+":8080")
	var raw net.PacketConn
	wire.in(func() (err error) { raw, err = net.ListenPacket("ip4:tcp", wireIP); return })
	defer func() { _ = raw.Close() }()
	c, err := host.dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 2000)
	_ = raw.SetReadDeadline(time.Now().Add(3 * time.Second))
	for {
		n, _, err := raw.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no SYN seen: %v", err)
		}
		if mss := mssOf(buf[:n]); mss == 1460 {
			return
		} else if mss != 0 {
			t.Fatalf("MSS %d on the wire, want 1460", mss)
		}
	}
}

// mssOf returns the MSS option of a SYN without ACK, 0 for anything else.
func mssOf(tcp []byte) int {
	if len(tcp) < 24 || tcp[13]&0x12 != 0x02 {
		return 0
	}
	for o := tcp[20:min(int(tcp[12]>>4)*4, len(tcp))]; len(o) >= 4; {
		switch {
		case o[0] == 2:
			return int(binary.BigEndian.Uint16(o[2:4]))
		case o[0] == 1:
			o = o[1:]
		case o[1] < 2 || int(o[1]) > len(o):
			return 0
		default:
			o = o[o[1]:]
		}
	}
	return 0
}

// TestUnknownConnection: the other end of a connection that this card does not
// know hears so from an endpoint, and nothing from a router.
func TestUnknownConnection(t *testing.T) {
	for _, ends := range []bool{true, false} {
		t.Run(fmt.Sprintf("ends here %t", ends), func(t *testing.T) { unknownConnection(t, ends) })
	}
}

func unknownConnection(t *testing.T, ends bool) {
	now := both
	now.endpoint = ends
	before := now
	before.published = []wirePort{{unix.IPPROTO_TCP, 9}}
	_, wire := crossing(t, before)
	ln, err := net.Listen("tcp4", "192.0.2.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	conn, err := wire.dial("tcp4", "192.0.2.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// From here on the card is as one that has just started.
	if err := (nftFirewall{}).apply(now); err != nil {
		t.Fatal(err)
	}
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte("still there?"))
	_, err = io.Copy(io.Discard, conn)
	if reset := errors.Is(err, unix.ECONNRESET); reset != ends {
		t.Errorf("the other end saw %v", err)
	}
}
