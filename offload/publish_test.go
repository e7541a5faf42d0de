package offload

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
)

// TestClientKeepsItsAddress: a client cannot look like the card to the service by choosing its
// port.
func TestClientKeepsItsAddress(t *testing.T) {
	p := newPlace(t)
	var service, other net.Listener
	p.in(func() (err error) {
		if service, err = net.Listen("tcp4", "127.0.0.1:0"); err == nil {
			other, err = net.Listen("tcp4", "0.0.0.0:22")
		}
		return err
	})
	defer service.Close()
	defer other.Close()
	l, err := loop.NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Discard()
	to := netip.MustParseAddrPort(service.Addr().String())
	for _, c := range []struct {
		name, client string
		port         bool // is kept
	}{
		{"a port that is free", "127.0.0.9:4000", true},
		{"a port that the card listens on", "127.0.0.9:22", false},
		{"a port with a connection to the service", "127.0.0.9:4000", false},
	} {
		source, fd := netip.MustParseAddrPort(c.client), -1
		p.in(func() (err error) { fd, err = dialFor(l, source, to); return })
		defer unix.Close(fd)
		conn, err := service.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got := netip.MustParseAddrPort(conn.RemoteAddr().String())
		if got.Addr() != source.Addr() || (got == source) != c.port {
			t.Errorf("%s: the service sees %s of the client %s", c.name, got, source)
		}
	}
}

// TestClientsOfTheHost: the networks of the links are read again after a second, and when the
// configuration changes.
func TestClientsOfTheHost(t *testing.T) {
	l := &loop.Loop{}
	all := &tcp{loop: l, conf: Config{Links: []string{"lo"}}}
	near, far := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("192.0.2.9")
	if !all.ofHost(near) || all.ofHost(far) {
		t.Errorf("of the host: %t, %t; want %t, %t", all.ofHost(near), all.ofHost(far), true, false)
	}
	all.conf.Links = nil // as if lo had lost its address
	if !all.ofHost(near) {
		t.Error("looked for again at once")
	}
	all.linkNetsAt = all.linkNetsAt.Add(-time.Second)
	if all.ofHost(near) {
		t.Error("not looked for again after a second")
	}
	if err := all.configure(Config{Links: []string{"lo"}}); err != nil || !all.ofHost(near) {
		t.Error("not looked for again with another configuration", err)
	}
}
