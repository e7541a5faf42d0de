package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// largePing pings the card with the largest packet, and checks the traffic over toe0 meanwhile:
// only IP, and no fragments.
func (j *journey) largePing(t *testing.T) {
	seen := j.capture(t, "toe0", func() {
		ctx, cancel := context.WithTimeout(context.Background(), quick)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ip", "netns", "exec", j.netns,
			"ping", "-c1", "-W5", "-M", "do", "-s", "65507", j.gateway().String()).CombinedOutput()
		if err != nil || !strings.Contains(string(out), " 0% packet loss") {
			t.Fatalf("ping of 65507 bytes: %v: %s", err, out)
		}
		j.run(t, quick, 0, "ssh", "--", "true")
	})
	large := 0
	for _, p := range seen {
		if why := notIP(p); why != "" {
			t.Errorf("on toe0: %s: % x", why, p.data[:min(len(p.data), 32)])
		}
		if len(p.data) == 65535 && p.data[9] == unix.IPPROTO_ICMP {
			large++
		}
	}
	if large != 2 {
		t.Errorf("%d ICMP packets of 65535 bytes among %d packets; want the request and the reply", large, len(seen))
	}
}

// seenPacket is one packet as a packet socket returns it.
type seenPacket struct {
	protocol uint16 // of the link layer, host's byte order
	data     []byte
}

func notIP(p seenPacket) string {
	switch {
	case len(p.data) < 20:
		return "shorter than an IP header"
	case p.protocol == unix.ETH_P_IP && p.data[0]>>4 == 4:
		if binary.BigEndian.Uint16(p.data[6:])&0x3fff != 0 {
			return "a fragment"
		}
		return ""
	case p.protocol == unix.ETH_P_IPV6 && p.data[0]>>4 == 6:
		return ""
	}
	return "neither IPv4 nor IPv6"
}

// capture collects the packets that pass an interface of the host while f runs.
func (j *journey) capture(t *testing.T, iface string, f func()) []seenPacket {
	t.Helper()
	fd := -1
	if err := inNetns(j.netns, func() (err error) { fd, err = packetSocket(iface); return err }); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	f()
	time.Sleep(50 * time.Millisecond) // the last ones are on their way
	var seen []seenPacket
	buf := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return seen
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			seen = append(seen, seenPacket{swap16(ll.Protocol), bytes.Clone(buf[:n])})
		}
	}
}

func packetSocket(iface string) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swap16(unix.ETH_P_ALL)))
	if err != nil {
		return -1, err
	}
	index, err := interfaceIndex(fd, iface)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// interfaceIndex asks through a socket, which knows its namespace.
func interfaceIndex(fd int, name string) (int, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}

// swap16 converts 16 bits to or from network byte order.
func swap16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
