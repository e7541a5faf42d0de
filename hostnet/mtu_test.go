package hostnet

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/hostnet/netdev"
)

func ipShow(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Skipf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestHostLocksThePathMTU: every IPv4 route over the link and no other, and
// a datagram of full size is not forbidden to be cut.
func TestHostLocksThePathMTU(t *testing.T) {
	if !ownHost(t) {
		return
	}
	_, addrs, att := testLink(t, "", 1)
	ipShow(t, "route", "add", "default", "via", addrs.CardAddrs()[0].String(), "proto", strconv.Itoa(netdev.RouteProtocol))
	// A route of the administrator.
	ipShow(t, "route", "add", "198.51.100.0/24", "via", addrs.CardAddrs()[0].String())
	ipShow(t, "link", "set", "lo", "up")
	ipShow(t, "route", "add", "198.18.0.0/15", "dev", "lo")
	before := ipShow(t, "route", "show")
	for range 2 { // the second time nothing is left to do
		if err := att.Lock(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(ipShow(t, "route", "show")) {
		if (strings.Contains(line, "toe0") && !strings.HasPrefix(line, "198.51.100.0/24")) != strings.Contains(line, "mtu lock") {
			t.Errorf("route %q", line)
		}
	}
	if all := ipShow(t, "-6", "route", "show"); strings.Contains(all, "lock") {
		t.Errorf("IPv6: %s", all)
	}
	if !dontFragment(t, dialFar(t), att, false) {
		t.Error("DF is set with the MTU locked")
	}
	if err := att.Lock(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if after := ipShow(t, "route", "show"); after != before {
		t.Errorf("routes\n%s\nbefore, and after unlocking\n%s", before, after)
	}
	if !dontFragment(t, dialFar(t), att, true) {
		t.Error("DF is not set without the lock: this test sees nothing")
	}
}

func dialFar(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("udp4", "192.0.2.9:9")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dontFragment reports whether a datagram of a plain socket has the DF flag as
// it should.
func dontFragment(t *testing.T, c net.Conn, att *Attachment, want bool) bool {
	t.Helper()
	if _, err := c.Write(make([]byte, 65507)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 70000)
	for {
		n, err := readTUN(att.Files[0], buf)
		if err != nil {
			t.Fatalf("no datagram on the link: %v", err)
		}
		if p := buf[:n]; n == 65535 && p[0]>>4 == 4 {
			return p[6]&0x40 != 0 == want
		}
	}
}

// readTUN leaves the virtio-net header out.
func readTUN(f *os.File, buf []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 2000); err != nil || n == 0 {
		return 0, errors.Join(err, os.ErrDeadlineExceeded)
	}
	n, err := unix.Read(int(f.Fd()), buf)
	if err != nil || n < tunHeader {
		return 0, errors.Join(err, io.ErrUnexpectedEOF)
	}
	return copy(buf, buf[tunHeader:n]), nil
}

// tunHeader is the length of struct virtio_net_hdr_v1, which tun.Open asks for.
const tunHeader = 12

// datagram is an IPv4 packet with a UDP datagram without a checksum.
func datagram(from, to netip.AddrPort, payload string) []byte {
	src, dst := from.Addr().As4(), to.Addr().As4()
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[20:], from.Port())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, payload...)
}

// TestHostReturnRoute: a client from anywhere reaches a service at the link's
// address, with the strictest rp_filter, and is answered over the link; the
// rest of the host's traffic takes the host's own way.
func TestHostReturnRoute(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, addrs, att := testLink(t, "", 1)
	ipShow(t, "link", "set", "lo", "up")
	ipShow(t, "link", "add", "eth7", "type", "veth", "peer", "name", "peer7")
	ipShow(t, "link", "set", "eth7", "up")
	ipShow(t, "address", "add", "198.51.100.7/24", "dev", "eth7")
	ipShow(t, "route", "add", "default", "via", "198.51.100.1")
	for _, who := range []string{"all", "toe0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+who+"/rp_filter", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	service, err := net.ListenPacket("udp4", net.JoinHostPort(addrs.HostAddrs()[0].String(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	client := netip.MustParseAddrPort("203.0.113.9:5000")
	reaches := func() bool {
		packet := append(make([]byte, tunHeader), datagram(client, netip.AddrPortFrom(addrs.HostAddrs()[0], 9), "hello")...)
		if _, err := unix.Write(int(att.Files[0].Fd()), packet); err != nil {
			t.Fatal(err)
		}
		_ = service.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, from, err := service.ReadFrom(make([]byte, 99))
		return err == nil && from.String() == client.String()
	}
	if reaches() {
		t.Error("a strict rp_filter lets a client in that belongs elsewhere: this test sees nothing")
	}
	rulesBefore := ipShow(t, "rule", "show")
	undo, err := h.ReturnRoute(att.Interface, addrs)
	if err != nil {
		t.Fatal(err)
	}
	if !reaches() {
		t.Error("a client does not reach the service")
	}
	host := addrs.HostAddrs()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"route", "get", "203.0.113.9", "from", host[0].String()}, "dev toe0"},
		{[]string{"route", "get", "198.51.100.1", "from", host[0].String()}, "dev toe0"},
		{[]string{"-6", "route", "get", "2001:db8::9", "from", host[1].String()}, "dev toe0"},
		{[]string{"route", "get", "203.0.113.9"}, "dev eth7"},
		{[]string{"route", "get", "203.0.113.9", "from", "198.51.100.7"}, "dev eth7"},
	} {
		if got := ipShow(t, c.args...); !strings.Contains(got, c.want) {
			t.Errorf("ip %v: %s, want %s", c.args, got, c.want)
		}
	}
	if got := ipShow(t, "route", "show", "table", "7464000"); !strings.Contains(got, "mtu lock") {
		t.Errorf("table 7464000: %s", got)
	}
	if table, err := freeReturnTable(); err != nil || table != firstReturnTable+1 {
		t.Errorf("another card gets table %d, %v", table, err)
	}
	// As after a crash: a new supervisor finds the journal.
	again := *h.card
	if err := Clean(&again); err != nil {
		t.Fatal(err)
	}
	if now := ipShow(t, "rule", "show"); now != rulesBefore {
		t.Errorf("rules before\n%sand after cleaning up\n%s", rulesBefore, now)
	}
	if err := undo(); err != nil { // nothing is left to undo
		t.Error(err)
	}
	if left, _ := exec.Command("ip", "route", "show", "table", "7464000").Output(); len(left) > 0 {
		t.Errorf("left in the table: %s", left)
	}
}

// TestHostExecFollowsTheMode: the same in the namespace of toe exec, which
// the holder is asked for.
func TestHostExecFollowsTheMode(t *testing.T) {
	if !ownHost(t) {
		return
	}
	_, _, att := testExec(t)
	for _, on := range []bool{true, false} {
		if err := att.Lock(t.Context(), on); err != nil {
			t.Fatal(err)
		}
		c, err := att.Dial(t.Context(), "udp4", "192.0.2.9:9")
		if err != nil {
			t.Fatal(err)
		}
		if !dontFragment(t, c, att, !on) {
			t.Errorf("locked %v: DF is the other way", on)
		}
		c.Close()
	}
	if err := att.Abort(t.Context()); err != nil && !strings.Contains(err.Error(), "CONFIG_INET_DIAG_DESTROY") {
		t.Error(err)
	}
	if err := att.Detach(); err != nil {
		t.Error(err)
	}
}
