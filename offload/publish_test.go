package offload

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClientKeepsItsAddress: by no choice of its port does a client look like
// the card to the service.
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
		p.in(func() (err error) { fd, err = dialFor(source, to); return })
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
