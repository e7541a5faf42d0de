package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const inNamespace = "TOE_AGENT_TEST_NAMESPACE"

// TestMain runs the tests in network, mount and UTS namespaces of their own:
// the test process is the card, and nothing that it does reaches the machine
// it runs on. Without the right to make them, the tests that need them skip.
func TestMain(m *testing.M) {
	child := os.Getenv(reaperChild) != "" || len(os.Args) == 2 && os.Args[1] == SFTPVerb
	if os.Getenv(inNamespace) != "" || child {
		os.Exit(runTests(m))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	fmt.Fprintln(os.Stderr, "no namespaces:", err)
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if len(os.Args) == 2 && os.Args[1] == SFTPVerb { // the session's child
		if err := ServeSFTP(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if os.Getenv(reaperChild) != "" {
		return reaperMain()
	}
	return m.Run()
}

// needNamespace skips where TestMain could not make namespaces.
func needNamespace(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs a network namespace: run as root, or allow user namespaces to users")
	}
}

// space is another network namespace, a thread in it and what runs there.
type space struct {
	t  *testing.T
	ns netns.NsHandle
	nl *netlink.Handle
	do chan func()
}

// newSpace makes a namespace, which ends with the test.
func newSpace(t *testing.T) *space {
	t.Helper()
	needNamespace(t)
	s := &space{t: t, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.ns, err = netns.Get()
		}
		ready <- err
		for f := range s.do {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.nl.Close()
		close(s.do)
		_ = s.ns.Close()
	})
	s.in(func() error {
		lo, err := s.nl.LinkByName("lo")
		if err != nil {
			return err
		}
		return s.nl.LinkSetUp(lo)
	})
	return s
}

// in runs f on the namespace's thread. Sockets and processes that f makes
// belong to the namespace.
func (s *space) in(f func() error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) try(f func() error) error {
	done := make(chan error)
	s.do <- func() { done <- f() }
	return <-done
}

func (s *space) listen(network, address string) net.Listener {
	s.t.Helper()
	var ln net.Listener
	s.in(func() (err error) { ln, err = net.Listen(network, address); return })
	s.t.Cleanup(func() { _ = ln.Close() })
	return ln
}

func (s *space) dial(network, address string) (net.Conn, error) {
	return s.dialFor(2*time.Second, network, address)
}

// refused is a dial that should fail: a filter is silent, and longer waiting
// would not make it speak.
func (s *space) refused(address string) error {
	conn, err := s.dialFor(300*time.Millisecond, "tcp", address)
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return fmt.Errorf("%s answers", address)
}

func (s *space) dialFor(limit time.Duration, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.try(func() (err error) {
		conn, err = net.DialTimeout(network, address, limit)
		return
	})
	return conn, err
}

// cable joins the card, the test's own namespace, with a peer.
func cable(t *testing.T, card string, mac string, peer *space, name string, peerMAC string) {
	t.Helper()
	needNamespace(t)
	nl := handle(t)
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr, a.MTU = card, hardware(t, mac), 1500
	veth := &netlink.Veth{LinkAttrs: a, PeerName: name, PeerNamespace: netlink.NsFd(peer.ns)}
	if peerMAC != "" {
		veth.PeerHardwareAddr = hardware(t, peerMAC)
	}
	if err := nl.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It may have been renamed.
		if dev, err := findDevice(nl, mac); err == nil {
			_ = nl.LinkDel(dev)
		} else if dev, err := peer.nl.LinkByName(name); err == nil {
			_ = peer.nl.LinkDel(dev)
		}
	})
	dev, err := peer.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.nl.LinkSetUp(dev); err != nil {
		t.Fatal(err)
	}
}

// address gives a peer's device an address.
func (s *space) address(name, prefix string) {
	s.t.Helper()
	dev, err := s.nl.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := addAddress(s.nl, dev, netip.MustParsePrefix(prefix), unix.IFA_F_NODAD); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) route(name, dst, via string) {
	s.t.Helper()
	dev, err := s.nl.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := addRoute(s.nl, dev, route{dst: netip.MustParsePrefix(dst), via: netip.MustParseAddr(via)}); err != nil {
		s.t.Fatal(err)
	}
}

func handle(t *testing.T) *netlink.Handle {
	t.Helper()
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nl.Close)
	return nl
}

func hardware(t *testing.T, mac string) net.HardwareAddr {
	t.Helper()
	a, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// eventually waits up to limit for what ok says, and fails with what it last said.
func eventually(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// dialContext is a control.DialFunc.
func (s *space) dialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.try(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return
	})
	return
}
