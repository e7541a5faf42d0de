package hostnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/link/tun"
)

// elsewhere runs f in a new network namespace, which lives as long as the
// sockets and devices that f made there, at least until the test's end.
func elsewhere(t *testing.T, f func() error) {
	t.Helper()
	done, over := make(chan error), make(chan struct{})
	t.Cleanup(func() { close(over) })
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
		<-over
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func addAddr(name string, a netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	at := &netlink.Addr{IPNet: netdev.IPNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
	return errors.Join(netlink.AddrAdd(l, at), netlink.LinkSetUp(l))
}

// echoes accepts at port 9 of every address of the calling thread's
// namespace, and keeps what it has accepted.
func echoes(t *testing.T) error {
	ln, err := net.Listen("tcp", ":9")
	if err != nil {
		return err
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return nil
}

// playCard is another namespace at the far end of a TUN, which has the card's
// addresses and another one behind it.
func playCard(t *testing.T, link *os.File, a store.LinkAddrs, behind netip.Addr) {
	t.Helper()
	var files []*os.File
	elsewhere(t, func() (err error) {
		if files, err = tun.Open(tun.Options{Name: "pci0", Queues: 1}); err != nil {
			return err
		}
		netdev.Quiet("pci0")
		for _, at := range append(a.CardAddrs(), behind) {
			if err := addAddr("pci0", at); err != nil {
				return err
			}
		}
		pci, err := netlink.LinkByName("pci0")
		if err != nil {
			return err
		}
		for _, host := range a.HostAddrs() {
			back := &netlink.Route{LinkIndex: pci.Attrs().Index, Dst: netdev.IPNet(netip.PrefixFrom(host, host.BitLen()))}
			if err := netlink.RouteAdd(back); err != nil {
				return err
			}
		}
		return echoes(t)
	})
	for _, way := range [][2]*os.File{{link, files[0]}, {files[0], link}} {
		carry(t, way[0], way[1])
	}
}

// carry moves packets from one TUN to another until the test's end.
func carry(t *testing.T, from, to *os.File) {
	ended := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); <-ended })
	go func() {
		defer close(ended)
		buf := make([]byte, 1<<17)
		for ctx.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(from.Fd()), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, 20); n == 0 || err != nil {
				continue
			}
			n, err := unix.Read(int(from.Fd()), buf)
			if err != nil {
				return
			}
			_, _ = unix.Write(int(to.Fd()), buf[:n])
		}
	}()
}

// playContainer is a namespace behind a device of this one, which talks to
// port 9 of the link's address.
func playContainer(t *testing.T, a store.LinkAddrs) net.Conn {
	t.Helper()
	host, inside := netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("172.17.0.2")
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0"}
	veth.Name = "veth7"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Skipf("veth7: %v", err)
	}
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	var conn net.Conn
	l, err := netlink.LinkByName("veth7")
	if err == nil {
		err = netlink.AddrAdd(l, &netlink.Addr{IPNet: netdev.IPNet(netip.PrefixFrom(host, 24))})
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	elsewhere(t, func() error {
		there, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer there.Close()
		if err := moveTo(here, there, "eth0"); err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.AddrAdd(eth, &netlink.Addr{IPNet: netdev.IPNet(netip.PrefixFrom(inside, 24))}), netlink.LinkSetUp(eth)); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: netdev.IPNet(netip.MustParsePrefix("10.116.0.0/16")), Gw: host.AsSlice()}); err != nil {
			return err
		}
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(a.HostAddrs()[0], 9).String(), 5*time.Second)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// moveTo moves a device between two namespaces; the calling thread is in the
// second, before and after.
func moveTo(from, to *os.File, name string) error {
	if err := unix.Setns(int(from.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetNsFd(l, int(to.Fd()))
	}
	return errors.Join(err, unix.Setns(int(to.Fd()), unix.CLONE_NEWNET))
}

// reading is what a program that only reads is told.
func reading(c net.Conn) chan error {
	end := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		end <- err
	}()
	return end
}

func dialFrom(t *testing.T, from, to netip.Addr) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	if from.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	c, err := d.Dial("tcp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		t.Fatalf("%s to %s: %v", from, to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestAbortEndsWhatCrossesTheLink: idle readers of connections over the link
// get an error; listeners, the host with itself, a container that talks to
// the link's address, and other connections know nothing of it. The same when
// the interface has gone with the supervisor.
func TestAbortEndsWhatCrossesTheLink(t *testing.T) {
	if !ownHost(t) {
		return
	}
	_, addrs, att := testLink(t, "link: {ipv4: 10.116.7.0/31}\n", 1)
	own, far := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.9")
	if err := addAddr("lo", own); err != nil {
		t.Fatal(err)
	}
	if err := echoes(t); err != nil {
		t.Fatal(err)
	}
	playCard(t, att.Files[0], addrs, far)
	ipShow(t, "route", "add", far.String(), "dev", att.Interface)
	host, card := addrs.HostAddrs(), addrs.CardAddrs()
	crossing := func() map[string]chan error {
		return map[string]chan error{
			"from the link, to behind the card": reading(dialFrom(t, host[0], far)),
			"to the card":                       reading(dialFrom(t, netip.Addr{}, card[0])),
			"to the card, IPv6":                 reading(dialFrom(t, host[1], card[1])),
		}
	}
	ending := crossing()
	staying := map[string]chan error{
		"of the host alone":           reading(dialFrom(t, host[0], host[0])),
		"from the link, to the host":  reading(dialFrom(t, host[0], own)),
		"from the host, to the link":  reading(dialFrom(t, own, host[0])),
		"over the loopback":           reading(dialFrom(t, netip.Addr{}, netip.MustParseAddr("127.0.0.1"))),
		"from elsewhere":              reading(dialFrom(t, own, own)),
		"of a container, to the link": reading(playContainer(t, addrs)),
	}
	time.Sleep(50 * time.Millisecond) // the readers wait
	if err := att.Abort(t.Context()); err != nil {
		if strings.Contains(err.Error(), "CONFIG_INET_DIAG_DESTROY") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	aborted(t, ending)
	waiting(t, staying)

	ending = crossing()
	time.Sleep(50 * time.Millisecond)
	l, err := netlink.LinkByName(att.Interface)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkDel(l), netdev.Abort(addrs)); err != nil {
		t.Fatal(err)
	}
	aborted(t, ending)
	waiting(t, staying)
	c, err := net.Dial("tcp", "127.0.0.1:9")
	if err != nil {
		t.Fatalf("the listener is gone: %v", err)
	}
	c.Close()
}

func aborted(t *testing.T, readers map[string]chan error) {
	t.Helper()
	for name, r := range readers {
		select {
		case err := <-r:
			if !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(500 * time.Millisecond):
			t.Errorf("%s: the reader still waits", name)
		}
	}
}

func waiting(t *testing.T, readers map[string]chan error) {
	t.Helper()
	time.Sleep(300 * time.Millisecond)
	for name, r := range readers {
		select {
		case err := <-r:
			if err == nil {
				err = io.EOF
			}
			t.Errorf("%s: %v", name, err)
		default:
		}
	}
}
