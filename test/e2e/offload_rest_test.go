package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestEndpointRest tests what an endpoint does not terminate, and the rest of TCP: path MTU
// discovery, ICMP, other protocols, the class of a SYN, data in a SYN.
func TestEndpointRest(t *testing.T) {
	o := onWire(t, "")
	w := newWorld(t, o.far)
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T, world)
	}{
		{"who asks for the path's MTU gets it", (*offloaded).pathMTU},
		{"echo", (*offloaded).ping},
		{"traceroute", (*offloaded).trace},
		{"other protocols", (*offloaded).otherProtocols},
		{"class of a SYN", (*offloaded).classOfSYN},
		{"data in a SYN", (*offloaded).dataInSYN},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t, w) })
	}
	o.clean(t)
}

// pathMTU: a socket that sends with DF learns the wire's MTU, and one without DF does not.
func (o *offloaded) pathMTU(t *testing.T, _ world) {
	const shared, own = 8, 18 // ports; the second has only those that ask
	const later = "with DF, in a flow that began without"
	answerUDP(t, o.far, shared)
	answerUDP(t, o.far, own)
	for _, c := range []struct {
		name     string
		discover int // IP_MTU_DISCOVER; -1 leaves the kernel's own
		port     int
		size     int
		want     error
	}{
		{"own choice", -1, shared, 1472, nil},
		{"own choice, more than the wire's MTU", -1, shared, 1473, nil},
		{"own choice, much more", -1, shared, largestUDP4, nil},
		{"without DF, much more", unix.IP_PMTUDISC_DONT, shared, largestUDP4, nil},
		{"with DF", unix.IP_PMTUDISC_DO, own, 1472, nil},
		{"with DF, more than the wire's MTU", unix.IP_PMTUDISC_DO, own, 1473, unix.EMSGSIZE},
		{"with DF, much more", unix.IP_PMTUDISC_DO, own, 60_000, unix.EMSGSIZE},
		{"probing, more than the wire's MTU", unix.IP_PMTUDISC_PROBE, own, 1473, unix.EMSGSIZE},
		{"with DF, to whom others talk without", unix.IP_PMTUDISC_DO, shared, 60_000, unix.EMSGSIZE},
		{later, unix.IP_PMTUDISC_DO, shared, 60_000, nil},
	} {
		conn := o.dialUDP(t, worldAddr, c.port)
		if c.name == later {
			if err := echoed(conn, 1); err != nil {
				t.Error(err)
			}
		}
		if c.discover >= 0 {
			setOption(t, conn, unix.SOL_IP, unix.IP_MTU_DISCOVER, c.discover)
		}
		for range 3 { // an error comes with the call after that of the datagram
			if err := echoed(conn, c.size); !errors.Is(err, c.want) {
				t.Errorf("%s: %d bytes: %v, want %v", c.name, c.size, err, c.want)
			}
		}
		conn.Close()
	}
}

func setOption(t *testing.T, c syscall.Conn, level, name, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		if failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); failed != nil {
			err = failed
		}
	}
	if err != nil {
		t.Fatalf("socket option %d of level %d: %v", name, level, err)
	}
}

// ping sends echo requests to the world, which answers the card's address.
func (o *offloaded) ping(t *testing.T, _ world) {
	for _, at := range []string{worldAddr, worldAddr6} {
		ctx, cancel := context.WithTimeout(context.Background(), quick)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ip", "netns", "exec", o.netns, "ping", "-c2", "-i0.2", "-W5", at).CombinedOutput()
		if err != nil {
			t.Errorf("ping %s: %v: %s", at, err, out)
		}
	}
}

// trace is traceroute(8): datagrams that live for one hop more each time. The
// first router is the card, the second hop the world, where the port is closed.
func (o *offloaded) trace(t *testing.T, _ world) {
	link := o.status(t, "card0").Link.Card
	for _, c := range []struct {
		to, want string
		hops     int
		number   syscall.Errno
	}{
		{worldAddr, link[0].String(), 1, unix.EHOSTUNREACH},
		{worldAddr, worldAddr, 2, unix.ECONNREFUSED},
		{worldAddr6, link[1].String(), 1, unix.EHOSTUNREACH},
		{worldAddr6, worldAddr6, 2, unix.ECONNREFUSED},
	} {
		until(t, quick, fmt.Sprintf("an answer to %d hops towards %s", c.hops, c.to), func() error { // ICMP has rates
			from, number, err := o.hop(t, c.to, c.hops)
			if err == nil && (from.String() != c.want || number != c.number) {
				err = fmt.Errorf("%s says %s; want %s from %s", from, unix.ErrnoName(number), unix.ErrnoName(c.number), c.want)
			}
			return err
		})
	}
}

// hop sends one datagram with a time to live, and returns the ICMP error and its sender (ip(7),
// IP_RECVERR).
func (o *offloaded) hop(t *testing.T, to string, hops int) (from netip.Addr, number syscall.Errno, err error) {
	t.Helper()
	c := o.dialUDP(t, to, 33434)
	defer c.Close()
	if strings.Contains(to, ":") {
		setOption(t, c, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		setOption(t, c, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, hops)
	} else {
		setOption(t, c, unix.SOL_IP, unix.IP_RECVERR, 1)
		setOption(t, c, unix.SOL_IP, unix.IP_TTL, hops)
	}
	if _, err := c.Write([]byte("who is there?")); err != nil {
		return from, 0, err
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	raw, err := c.SyscallConn()
	if err != nil {
		return from, 0, err
	}
	oob := make([]byte, 512)
	var n int
	if wait := raw.Read(func(fd uintptr) bool {
		_, n, _, _, err = unix.Recvmsg(int(fd), make([]byte, 512), oob, unix.MSG_ERRQUEUE)
		return !errors.Is(err, unix.EAGAIN)
	}); err == nil {
		err = wait
	}
	if err != nil {
		return from, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return from, 0, err
	}
	for _, m := range messages {
		if len(m.Data) >= 16 && (m.Header.Type == unix.IP_RECVERR || m.Header.Type == unix.IPV6_RECVERR) {
			return offender(m.Data[16:]), syscall.Errno(binary.NativeEndian.Uint32(m.Data)), nil
		}
	}
	return from, 0, fmt.Errorf("no struct sock_extended_err in % x", oob[:n])
}

// offender is the address behind a struct sock_extended_err: a struct
// sockaddr_in or sockaddr_in6.
func offender(b []byte) netip.Addr {
	switch {
	case len(b) >= 24 && binary.NativeEndian.Uint16(b) == unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b[8:24]))
	case len(b) >= 8 && binary.NativeEndian.Uint16(b) == unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8]))
	}
	return netip.Addr{}
}

// otherProtocols go to the world and back as in router mode: behind the card's address.
func (o *offloaded) otherProtocols(t *testing.T, _ world) {
	for _, c := range []struct {
		name, at, from string
		protocol       int
		data           []byte
	}{
		{"GRE", worldAddr, cardAddr, 47, append([]byte{0, 0, 8, 0}, make([]byte, 24)...)}, // RFC 2784, section 2.1
		{"an experiment", worldAddr, cardAddr, 253, []byte("RFC 3692, section 1.1")},
		{"an experiment over IPv6", worldAddr6, cardAddr6, 253, []byte("RFC 3692, section 1.1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			network := fmt.Sprintf("ip4:%d", c.protocol)
			if strings.Contains(c.at, ":") {
				network = fmt.Sprintf("ip6:%d", c.protocol)
			}
			var near *net.IPConn // whose ReadFrom has no header of IPv4
			var far net.PacketConn
			if err := errors.Join(
				inNetns(o.far, func() (err error) { far, err = net.ListenPacket(network, c.at); return err }),
				inNetns(o.netns, func() (err error) {
					near, err = net.DialIP(network, nil, &net.IPAddr{IP: net.ParseIP(c.at)})
					return err
				}),
			); err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			defer far.Close()
			_, _ = near.SetDeadline(time.Now().Add(quick)), far.SetDeadline(time.Now().Add(quick))
			if _, err := near.Write(c.data); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 256)
			n, from, err := far.ReadFrom(buf)
			if err != nil || from.String() != c.from || !bytes.Equal(buf[:n], c.data) {
				t.Fatalf("the world has % x of %v, %v; want % x of %s", buf[:n], from, err, c.data, c.from)
			}
			if _, err := far.WriteTo(c.data, from); err != nil {
				t.Fatal(err)
			}
			if n, _, err = near.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], c.data) {
				t.Errorf("the host has % x, %v; want % x", buf[:n], err, c.data)
			}
		})
	}
}

// classOfSYN: the DSCP that a program sets is on the wire's SYN
// (tcp(7), TCP_SAVE_SYN).
func (o *offloaded) classOfSYN(t *testing.T, w world) {
	for _, at := range []string{worldAddr, worldAddr6} {
		for _, class := range []int{0, 0x48, 0xb8} {
			l := plainListener(t, w.netns, at)
			setOption(t, l, unix.SOL_TCP, unix.TCP_SAVE_SYN, 1)
			_ = l.SetDeadline(time.Now().Add(quick))
			c := o.dialWith(t, l.Addr().String(), func(fd int) error {
				if strings.Contains(at, ":") {
					return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TCLASS, class)
				}
				return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TOS, class)
			})
			s, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := s.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			head := make([]byte, 256)
			_ = raw.Control(func(fd uintptr) { head, err = savedSYN(int(fd), head) })
			if err != nil || len(head) < 2 {
				t.Fatalf("the SYN that %s had: % x, %v", at, head, err)
			}
			got := int(head[1])
			if head[0]>>4 == 6 {
				got = int(head[0]&15)<<4 | int(head[1])>>4
			}
			if got != class {
				t.Errorf("to %s: the class of the wire's SYN is %#x, the program's is %#x", at, got, class)
			}
			c.Close()
			s.Close()
			l.Close()
		}
	}
}

// plainListener has no Multipath TCP, whose sockets keep no SYN.
func plainListener(t *testing.T, netns, at string) *net.TCPListener {
	t.Helper()
	var conf net.ListenConfig
	conf.SetMultipathTCP(false)
	var l net.Listener
	if err := inNetns(netns, func() (err error) { l, err = conf.Listen(t.Context(), "tcp", net.JoinHostPort(at, "0")); return err }); err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}

// savedSYN is the header of the packet that opened a connection: of IP, and of TCP.
func savedSYN(fd int, buf []byte) ([]byte, error) {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_SAVED_SYN,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return buf[:size], nil
}

// dialWith connects from the host, with a socket that tell has configured.
func (o *offloaded) dialWith(t *testing.T, address string, tell func(fd int) error) net.Conn {
	t.Helper()
	var c net.Conn
	err := inNetns(o.netns, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			_ = raw.Control(func(fd uintptr) { err = tell(int(fd)) })
			return err
		}}
		c, err = d.Dial("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(quick))
	return c
}

// dataInSYN sends data with the SYN (RFC 7413). The card acknowledges none of it, so the host's
// kernel sends it again. The remote gets it once.
func (o *offloaded) dataInSYN(t *testing.T, w world) {
	const clients, noCookie = 1, 4 // Documentation/networking/ip-sysctl.rst, tcp_fastopen
	sysctl(t, o.netns, "net/ipv4/tcp_fastopen", fmt.Sprint(clients|noCookie))
	got := make(chan []byte, 1)
	w.serveTCP(t, ":70", func(c net.Conn) {
		var size [2]byte
		_, _ = io.ReadFull(c, size[:])
		data := make([]byte, binary.BigEndian.Uint16(size[:]))
		n, _ := io.ReadFull(c, data)
		_, _ = c.Write([]byte("!"))
		more, _ := io.ReadAll(c)
		got <- append(data[:n], more...)
	})
	// A socket with TCP_FASTOPEN_CONNECT sends its SYN with the first data.
	tell := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1) }
	for _, at := range []string{worldAddr, worldAddr6} {
		for _, size := range []int{1, 500, 20_000} {
			data := make([]byte, size)
			_, _ = io.ReadFull(noise(uint64(size)), data)
			before := counters(t, o.netns)["TcpExt.TCPFastOpenActiveFail"]
			c := o.dialWith(t, net.JoinHostPort(at, "70"), tell)
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(size)), data...)); err != nil {
				t.Fatal(err)
			}
			// It must not close before the answer: close of a socket in SYN-SENT drops the
			// connection.
			if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Errorf("the answer: %d bytes, %v", n, err)
			}
			c.Close()
			if b := <-got; !bytes.Equal(b, data) {
				t.Errorf("%d bytes with a SYN: the world has %d, or others", size, len(b))
			}
			if n := counters(t, o.netns)["TcpExt.TCPFastOpenActiveFail"] - before; n != 1 {
				t.Errorf("%d bytes: %d SYN with data that was not acknowledged, want 1: nothing was shown", size, n)
			}
		}
	}
}
