package e2e

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOffloadChoices tests the choices of an administrator or a program in endpoint mode:
// connections that stay end to end, and the host's own address.
func TestOffloadChoices(t *testing.T) {
	o := onWire(t, "")
	newWorld(t, o.far)
	for _, c := range []struct {
		name, offload string
		class         int  // of the program's socket
		ended         bool // the card terminates it
		own           bool // the world sees the host's own address
		multipath     bool // the program asks for Multipath TCP
		six           bool // over IPv6
	}{
		{name: "nothing chosen", ended: true},
		{name: "Multipath TCP falls back", multipath: true, ended: true},
		{name: "another port", offload: ", bypass: {tcp: [7, 10-20]}", ended: true},
		{name: "its port", offload: ", bypass: {tcp: [7, 9000-9010]}"},
		{name: "its address", offload: ", bypass: {addresses: [192.0.2.0/30]}"},
		{name: "a mark that it has", offload: ", bypass: {dscp: [cs1]}", class: 8 << 2},
		{name: "a mark that it has not", offload: ", bypass: {dscp: [cs1]}", ended: true},
		{name: "the host's address", offload: ", source: preserve", ended: true, own: true},
		{name: "the host's address, IPv6", offload: ", source: preserve", ended: true, own: true, six: true},
		{name: "nothing chosen, IPv6", ended: true, six: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := strings.Replace(o.cardSpec("endpoint", ""), "mode: endpoint", "mode: endpoint"+c.offload, 1)
			o.run(t, quick, 0, "apply", "card0", "-f", o.spec(t, "card0.yaml", spec))
			at, cards := worldAddr, cardAddr
			if c.six {
				at, cards = worldAddr6, cardAddr6
			}
			if c.own {
				o.wayBack(t)
			}
			size, from, to := o.tryConnection(t, at, c.class, c.multipath)
			if ended := size > 60_000; ended != c.ended {
				t.Errorf("segments of the host have %d bytes; ended on the card: %t, want %t", size, ended, c.ended)
			}
			if own := from == to; own != c.own {
				t.Errorf("the program is %s, the world sees %s; its own address: %t, want %t", from, to, own, c.own)
			}
			if !c.own && to.Addr().String() != cards {
				t.Errorf("the world sees %s, want the card's address", to)
			}
		})
	}
	o.clean(t)
}

// wayBack adds the route of a network that knows the host.
func (o *offloaded) wayBack(t *testing.T) {
	t.Helper()
	for _, a := range o.status(t, "card0").Link.Host {
		via := cardAddr
		if a.Is6() {
			via = cardAddr6
		}
		ip(t, "-n", o.far, "route", "replace", a.String(), "via", via)
	}
}

// tryConnection exchanges data with the world, and returns the segment size of
// the host and the client's address as the client and the world have it.
func (o *offloaded) tryConnection(t *testing.T, at string, class int, multipath bool) (size uint32, from, to netip.AddrPort) {
	t.Helper()
	at = net.JoinHostPort(at, "9009")
	l := world{o.far}.listen(t, at)
	defer l.Close()
	seen := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			seen <- ""
			return
		}
		defer c.Close()
		seen <- c.RemoteAddr().String()
		_ = answerExchange(c)
	}()
	mark := func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TOS, class) })
		return err
	}
	var c net.Conn
	err := inNetns(o.netns, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, Control: mark}
		d.SetMultipathTCP(multipath)
		c, err = d.Dial("tcp", at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := exchange(c, 2*mib, 1); err != nil {
		t.Fatal(err)
	}
	if still, err := c.(*net.TCPConn).MultipathTCP(); still || err != nil {
		t.Errorf("Multipath TCP: %t, %v", still, err)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
				size = info.Snd_mss
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	from = netip.MustParseAddrPort(c.LocalAddr().String())
	if to, err = netip.ParseAddrPort(<-seen); err != nil {
		t.Fatalf("the world reports no client address: %v", err)
	}
	return size, from, to
}
