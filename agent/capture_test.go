package agent

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

func TestCaptured(t *testing.T) {
	conf := &control.Config{
		Links: []control.Link{{Name: "pci0"}, {Name: "pci1"}},
		Ports: []control.Port{{Name: "wan"}, {Name: "lan"}},
	}
	bare := &control.Config{Links: conf.Links}
	named := &control.Config{Links: conf.Links, Ports: []control.Port{{Name: "link"}}}
	for _, c := range []struct {
		conf *control.Config
		name string
		want string
		link bool
	}{
		{conf, "", "wan", false}, {conf, "lan", "lan", false}, {conf, "link", "pci0", true}, {conf, "pci1", "pci1", true},
		{bare, "", "pci0", true}, {named, "link", "link", false}, {conf, "eth0", "", false}, {conf, "lo", "", false},
	} {
		got, link, err := captured(c.conf, c.name)
		if got != c.want || link != c.link || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, link %v, %v", c.name, got, link, err)
		}
		if err != nil && !strings.Contains(err.Error(), "want one of link, wan, lan, pci0, pci1") {
			t.Errorf("%q: %v", c.name, err)
		}
	}
}

// tcpFrame is a frame of TCP, over IPv4 with four bytes of options or over IPv6.
func tcpFrame(v6 bool, from, to uint16, fragment uint16) []byte {
	f := make([]byte, 14, 100)
	if v6 {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IPV6)
		f = append(f, make([]byte, 40)...)
		f[20] = unix.IPPROTO_TCP
	} else {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
		f = append(f, make([]byte, 24)...)
		f[14], f[23] = 0x46, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(f[20:], fragment)
	}
	f = binary.BigEndian.AppendUint16(f, from)
	return append(binary.BigEndian.AppendUint16(f, to), make([]byte, 16)...)
}

// A capture of a link must not see itself. The frames around it are seen.
func TestCaptureFilter(t *testing.T) {
	udp := tcpFrame(false, control.APIPort, 1, 0)
	udp[23] = unix.IPPROTO_UDP
	arp := tcpFrame(false, control.APIPort, control.APIPort, 0)
	binary.BigEndian.PutUint16(arp[12:], unix.ETH_P_ARP)
	for name, c := range map[string]struct {
		frame []byte
		keep  bool
	}{
		"from the card": {tcpFrame(false, control.APIPort, 40000, 0x4000), false},
		"to the card":   {tcpFrame(false, 40000, control.APIPort, 0), false},
		"from, IPv6":    {tcpFrame(true, control.APIPort, 40000, 0), false},
		"to, IPv6":      {tcpFrame(true, 40000, control.APIPort, 0), false},
		"other":         {tcpFrame(false, 40000, 80, 0), true},
		"other, IPv6":   {tcpFrame(true, 40000, 80, 0), true},
		"fragment":      {tcpFrame(false, control.APIPort, 1, 3), true},
		"UDP":           {udp, true},
		"ARP":           {arp, true},
	} {
		vm, err := bpf.NewVM(captureFilter(99, true))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := vm.Run(c.frame); err != nil || (n == 99) != c.keep || (n == 0) == c.keep {
			t.Errorf("%s: %d bytes kept, %v", name, n, err)
		}
		vm, _ = bpf.NewVM(captureFilter(99, false))
		if n, _ := vm.Run(c.frame); n != 99 {
			t.Errorf("%s on a port: %d bytes kept", name, n)
		}
	}
}

func TestAuxiliary(t *testing.T) {
	frame := []byte("abcdefABCDEF\x08\x00data")
	aux := make([]byte, 20)
	binary.NativeEndian.PutUint32(aux[4:], 1514)
	if n, got := auxiliary(aux, 18, frame); n != 1514 || !bytes.Equal(got, frame) {
		t.Errorf("%d, %q", n, got)
	}
	binary.NativeEndian.PutUint32(aux, unix.TP_STATUS_VLAN_VALID)
	binary.NativeEndian.PutUint16(aux[16:], 7)
	if n, got := auxiliary(aux, 18, frame); n != 1518 || string(got) != "abcdefABCDEF\x81\x00\x00\x07\x08\x00data" {
		t.Errorf("VLAN 7: %d, %q", n, got)
	}
	if n, got := auxiliary(aux[:19], 18, frame); n != 18 || !bytes.Equal(got, frame) {
		t.Errorf("short: %d, %q", n, got)
	}
}

// TestCapture captures real packets, with and without a snap length, and more than the socket holds.
func TestCapture(t *testing.T) {
	needNamespace(t)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "cap1"}
	veth.Name = "cap0"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.LinkDel(veth) }()
	for _, name := range []string{"cap0", "cap1"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	payload := bytes.Repeat([]byte("p"), 1000)
	frame := append([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5"), payload...) // IEEE's experiments
	send := func(name string, times int) {
		t.Helper()
		dev, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for range times {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := func(snap uint32) *capture {
		t.Helper()
		c, err := newCapture("cap0", snap, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.end)
		return c
	}
	whole, cut := begin(0), begin(60)
	send("cap1", 1)
	send("cap0", 1)
	for _, c := range []struct {
		*capture
		kept int
	}{{whole, len(frame)}, {cut, 60}} {
		for out := false; !out; { // the kernel's own packets, of IPv6, come between
			batch, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range batch.Packets {
				if p.Length != uint32(len(frame)) {
					continue
				}
				if !bytes.Equal(p.Frame, frame[:c.kept]) || time.Since(time.Unix(0, p.TimeUnixNano)).Abs() > time.Minute {
					t.Errorf("%d bytes at %d", len(p.Frame), p.TimeUnixNano)
				}
				out = p.Outgoing
			}
		}
	}
	send("cap1", 8000) // 8 MB, more than captureBuffer
	var got uint64
	for {
		batch, err := whole.read()
		if err != nil {
			t.Fatal(err)
		}
		if got += uint64(len(batch.Packets)); len(batch.Packets) < batchPackets {
			if batch.Dropped == 0 || batch.Received < 8000 || got+batch.Dropped < 8000 {
				t.Errorf("%d read, of %d; %d dropped", got, batch.Received, batch.Dropped)
			}
			break
		}
	}
	time.AfterFunc(10*time.Millisecond, cut.end)
	for {
		if _, err := cut.read(); err != nil {
			break // what ends a capture ends a read that waits
		}
	}
	if _, err := newCapture("cap9", 0, false); err == nil || !strings.Contains(err.Error(), "capture on cap9") {
		t.Errorf("an interface that is gone: %v", err)
	}
}
