package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// TestMain is also toe itself, for tests that run `toe pump` or `toe bench`, and
// the pump that the former starts in turn.
func TestMain(m *testing.M) {
	verbs := []string{"pump", link.PumpVerb, "bench"}
	if len(os.Args) > 1 && slices.Contains(verbs, os.Args[1]) {
		main()
	}
	os.Exit(m.Run())
}

const (
	pumpPort  = 7000 // UDP, at both ends
	pumpLimit = 10 * time.Second
)

var (
	pumpHost = [4]byte{10, 99, 0, 0} // the interface's address
	pumpCard = [4]byte{10, 99, 0, 1}
)

// namespace gives a test a network namespace to do things in.
func namespace(t *testing.T) (in func(f func() error)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	jobs, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		done <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range jobs {
			done <- f()
		}
		close(done)
	}()
	if err := <-done; err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	t.Cleanup(func() { close(jobs); <-done })
	return func(f func() error) {
		t.Helper()
		jobs <- f
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// pumped is a `toe pump` that runs.
type pumped struct {
	cmd   *exec.Cmd
	said  bytes.Buffer // to be read when it has ended
	ended chan struct{}
}

// startPump runs `toe pump` in a namespace.
func startPump(t *testing.T, in func(func() error), files []*os.File, args ...string) *pumped {
	t.Helper()
	p := &pumped{cmd: exec.Command("/proc/self/exe", append([]string{"pump"}, args...)...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = &p.said, &p.said, files
	in(p.cmd.Start)
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.ended })
	return p
}

// ends waits until it has ended by itself, and returns its status and words.
func (p *pumped) ends(t *testing.T) (int, string) {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode(), p.said.String()
	case <-time.After(pumpLimit):
		t.Fatalf("toe pump has not ended within %s", pumpLimit)
	}
	return 0, ""
}

// sigterm ends it as a service manager does.
func (p *pumped) sigterm(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	if status, said := p.ends(t); status != 0 {
		t.Errorf("SIGTERM: status %d, want 0: %s", status, said)
	}
}

// eventually tries until f has no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(pumpLimit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// dialCard attaches a card to a socket as soon as it is there.
func dialCard(t *testing.T, path string) *fakecard.Card {
	t.Helper()
	var c *fakecard.Card
	eventually(t, "attach to "+path, func() (err error) { c, err = fakecard.Connect(path, fakecard.Options{}); return err })
	t.Cleanup(func() { c.Close() })
	return c
}

// crosses sends a datagram each way between a card and the host's own sockets.
func crosses(t *testing.T, in func(func() error), iface string, c *fakecard.Card) {
	t.Helper()
	var host *net.UDPConn
	in(func() error {
		l, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		if l.Attrs().MTU != frame.MaxPacket {
			return fmt.Errorf("MTU %d, want %d", l.Attrs().MTU, frame.MaxPacket)
		}
		a, err := netlink.ParseAddr("10.99.0.0/31")
		if err == nil {
			err = netlink.AddrReplace(l, a)
		}
		if err = errors.Join(err, netlink.LinkSetUp(l)); err != nil {
			return err
		}
		host, err = net.ListenUDP("udp4", &net.UDPAddr{IP: pumpHost[:], Port: pumpPort})
		return err
	})
	defer host.Close()
	_ = host.SetDeadline(time.Now().Add(pumpLimit))
	up := fakecard.UDP(pumpCard, pumpHost, pumpPort, pumpPort, 60000)
	if err := c.Send(fakecard.Frame(up)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, fakecard.FrameMax)
	n, from, err := host.ReadFromUDP(buf)
	if err != nil || !bytes.Equal(buf[:n], up[28:]) {
		t.Fatalf("the host got %d bytes from %v: %v", n, from, err)
	}
	payload := bytes.Repeat([]byte("down"), 15000)
	if _, err := host.WriteToUDP(payload, from); err != nil {
		t.Fatal(err)
	}
	for { // the kernel has words of its own for a new interface
		n, err := c.Recv(buf)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(buf[frame.SeamLen+28:max(n, frame.SeamLen+28)], payload) {
			return
		}
	}
}

// Served at a path, both ways, until SIGTERM, after which nothing is left.
func TestPumpAtPath(t *testing.T) {
	in := namespace(t)
	path := filepath.Join(t.TempDir(), "link.sock")
	p := startPump(t, in, nil, "--socket-path", path, "--interface", "toe7")
	c := dialCard(t, path)
	crosses(t, in, "toe7", c)
	c.Close()
	crosses(t, in, "toe7", dialCard(t, path)) // the next front end
	p.sigterm(t)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after SIGTERM: %v, want none", err)
	}
	in(func() error {
		if _, err := netlink.LinkByName("toe7"); err == nil {
			return errors.New("toe7 is there after SIGTERM")
		}
		return nil
	})
}

// Served over a descriptor that was passed in: until SIGTERM, or the front end
// hangs up.
func TestPumpOnDescriptor(t *testing.T) {
	for _, hangUp := range []bool{false, true} {
		t.Run("hang up "+strconv.FormatBool(hangUp), func(t *testing.T) {
			in := namespace(t)
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
			conn, err := net.FileConn(ours)
			ours.Close()
			if err != nil {
				t.Fatal(err)
			}
			p := startPump(t, in, []*os.File{theirs}, "--fd", "3", "--interface", "toe7")
			theirs.Close()
			c, err := fakecard.Attach(conn.(*net.UnixConn), fakecard.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			crosses(t, in, "toe7", c)
			if !hangUp {
				p.sigterm(t)
				return
			}
			c.Close()
			if status, said := p.ends(t); status != 0 {
				t.Errorf("status %d, want 0: %s", status, said)
			}
		})
	}
}

// After SIGKILL the socket is still there, and no reason not to start. One that
// is answered is.
func TestPumpAfterKill(t *testing.T) {
	in := namespace(t)
	path := filepath.Join(t.TempDir(), "link.sock")
	first := startPump(t, in, nil, "--socket-path", path, "--interface", "toe7")
	crosses(t, in, "toe7", dialCard(t, path))
	_ = first.cmd.Process.Kill()
	<-first.ended
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the socket after SIGKILL: %v", err)
	}
	eventually(t, "the pump of the dead", func() (err error) { // it has the interface
		in(func() error {
			if _, e := netlink.LinkByName("toe7"); e == nil {
				err = errors.New("toe7 is still there")
			}
			return nil
		})
		return err
	})
	second := startPump(t, in, nil, "--socket-path", path, "--interface", "toe7")
	var c *fakecard.Card
	eventually(t, "attach to the second", func() (err error) {
		select {
		case <-second.ended:
			t.Fatalf("the second ended: %s", second.said.String())
		default:
		}
		c, err = fakecard.Connect(path, fakecard.Options{})
		return err
	})
	defer c.Close()
	third := startPump(t, in, nil, "--socket-path", path, "--interface", "toe8")
	want := path + ": in use: another back end answers on it"
	if status, said := third.ends(t); status != cli.Failure || !strings.Contains(said, want) {
		t.Errorf("beside one that answers: status %d, want %d: %q, want %q in it", status, cli.Failure, said, want)
	}
	crosses(t, in, "toe7", c)
	second.sigterm(t)
}

// What a program that starts back ends reads.
func TestPumpPrintsCapabilities(t *testing.T) {
	out, err := exec.Command("/proc/self/exe", "pump", "--print-capabilities").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Type     string   `json:"type"`
		Features []string `json:"features"`
	}
	if err := json.Unmarshal(out, &got); err != nil || got.Type != "net" || got.Features == nil {
		t.Errorf("%q: %v; want type net, and features, a list", out, err)
	}
}

// Behind a TAP a front end is told the MTU of the TAP and an address of its own: another for each
// TAP, the same at each start, and what the options say.
func TestPumpAnnouncesTheTAP(t *testing.T) {
	in := namespace(t)
	told := func(iface string, mtu int, args ...string) (mac net.HardwareAddr, announced int) {
		t.Helper()
		in(func() error {
			l := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: iface, MTU: mtu}, Mode: netlink.TUNTAP_MODE_TAP,
				Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
			if err := netlink.LinkAdd(l); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			return netlink.LinkSetMTU(l, mtu)
		})
		path := filepath.Join(t.TempDir(), "s")
		p := startPump(t, in, nil, append([]string{"--socket-path", path, "--interface", iface, "--tap"}, args...)...)
		c := dialCard(t, path)
		b, err := c.Config(0, 12)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		p.sigterm(t)
		return b[:6], int(binary.LittleEndian.Uint16(b[10:]))
	}
	a, mtu := told("tap7", 1400)
	if mtu != 1400 || a[0]&3 != 2 {
		t.Errorf("MTU %d and address %s, want 1400 and one that is locally administered", mtu, a)
	}
	if again, mtu := told("tap7", 9000); again.String() != a.String() || mtu != 9000 {
		t.Errorf("at the next start: %s, MTU %d; want %s, MTU 9000", again, mtu, a)
	}
	if other, _ := told("tap8", 1500); other.String() == a.String() {
		t.Errorf("two TAPs have the address %s", a)
	}
	if set, mtu := told("tap8", 1500, "--mac", "02:01:02:03:04:05", "--mtu", "1280"); set.String() != "02:01:02:03:04:05" || mtu != 1280 {
		t.Errorf("with options: %s, MTU %d", set, mtu)
	}
	path := filepath.Join(t.TempDir(), "s")
	p := startPump(t, in, nil, "--socket-path", path, "--interface", "tap7", "--tap", "--mtu", "9001")
	if status, said := p.ends(t); status != 2 || !strings.Contains(said, "--mtu 9001: want at most 9000") {
		t.Errorf("an MTU above the TAP's: status %d, %s", status, said)
	}
}

func TestPumpRefusesWhatItAnnounces(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--tap --mtu 67", "--mtu 67: want 68 to 65535"},
		{"--tap --mtu 65536", "--mtu 65536: want 68 to 65535"},
		{"--tap --mac 01:00:00:00:00:01", "want a unicast address"},
		{"--tap --mac 00:00:00:00:00:00", "want a unicast address"},
		{"--tap --mac 02:00:00:00:00:00:00:01", "want a unicast address"},
		{"--tap --mac x", `--mac "x": want a unicast address`},
		{"--mtu 1500", "for --tap"},
		{"--mac 02:00:00:00:00:01", "for --tap"},
	} {
		cmd := exec.Command("/proc/self/exe", append([]string{"pump", "--socket-path", "/nonexistent/s", "--interface", "tap7"}, strings.Fields(c.args)...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, %s; want status 2 and %q", c.args, err, out, c.want)
		}
	}
}
