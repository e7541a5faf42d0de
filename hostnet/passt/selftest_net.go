package passt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
)

const (
	outName = "out0" // where the server's default route leads
	tapName = "tap0" // the client's
	testMTU = 1500
)

// hostSide sets up the namespace that passt runs in. Its default route leads
// to a TAP that no process reads: without a route passt chooses other addresses,
// and it wants an interface with a hardware address.
func hostSide() (*os.File, error) {
	files, err := tun.Open(tun.Options{Name: outName, Queues: 1, TAP: true})
	if err != nil {
		return nil, err
	}
	return files[0], configure(outName, testAddr+"/24", nil)
}

// configure brings lo and an interface up, with a default route through it.
func configure(name, addr string, gateway net.IP) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(l), netlink.AddrAdd(l, a))
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	way := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway, Dst: all}
	if gateway == nil {
		way.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteAdd(way); err != nil {
		return fmt.Errorf("default route via %s: %w", name, err)
	}
	return nil
}

// cardSide is the namespace of the client, on a thread of its own.
type cardSide struct {
	tap  *os.File
	jobs chan func()
}

func newCardSide() (*cardSide, error) {
	s := &cardSide{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and the namespace with it
		ready <- s.setUp()
		for job := range s.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		s.close()
		return nil, fmt.Errorf("namespace of the client: %w", err)
	}
	return s, nil
}

func (s *cardSide) setUp() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	files, err := tun.Open(tun.Options{Name: tapName, Queues: 1, TAP: true})
	if err != nil {
		return err
	}
	s.tap = files[0]
	return configure(tapName, userCard+"/"+userMask, net.ParseIP(userGate))
}

func (s *cardSide) close() { close(s.jobs) }

// dial connects from the client's namespace.
func (s *cardSide) dial(ctx context.Context, addr string) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, testLimit)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	s.jobs <- func() {
		var d net.Dialer // a literal IPv4 address is dialed on the calling thread
		conn, err := d.DialContext(ctx, "tcp4", addr)
		done <- result{conn, err}
	}
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return r.conn.(*net.TCPConn), nil
}

// relay copies frames between a TAP and a stream socket, each behind its
// length (link.stream has the format), until either fails.
func relay(tap, stream *os.File) {
	go func() {
		buf := make([]byte, frame.HeaderLen+frame.MaxPacket)
		for {
			if _, err := io.ReadFull(stream, buf[frame.HeaderLen-4:frame.HeaderLen]); err != nil {
				return
			}
			n := int(binary.BigEndian.Uint32(buf[frame.HeaderLen-4:]))
			if n > len(buf)-frame.HeaderLen {
				return
			}
			clear(buf[:frame.HeaderLen])
			if _, err := io.ReadFull(stream, buf[frame.HeaderLen:frame.HeaderLen+n]); err != nil {
				return
			}
			_, _ = tap.Write(buf[:frame.HeaderLen+n])
		}
	}()
	buf := make([]byte, frame.HeaderLen+frame.MaxPacket)
	for {
		n, err := tap.Read(buf)
		if err != nil || n < frame.HeaderLen {
			return
		}
		// The length takes the place of the virtio header's last four bytes.
		binary.BigEndian.PutUint32(buf[frame.HeaderLen-4:], uint32(n-frame.HeaderLen))
		if _, err := stream.Write(buf[frame.HeaderLen-4 : n]); err != nil {
			return
		}
	}
}
