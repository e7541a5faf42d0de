package link

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/tun"
)

// host is the host's end of a device in a network namespace of its own: the
// descriptors for the keeper, and a packet socket on the interface that stands
// for all of the host's network stack.
type host struct {
	files []*os.File
	sock  int
}

// newHost needs the right to make network namespaces.
func newHost(t testing.TB, tap bool, queues int) *host {
	t.Helper()
	h := &host{sock: -1}
	fail := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		fail <- h.make(tap, queues)
	}()
	if err := <-fail; err != nil {
		closeAll(h.files)
		if errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrNotExist) || errors.Is(err, tun.ErrNotPermitted) {
			t.Skipf("needs CAP_NET_ADMIN and /dev/net/tun: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(h.sock) })
	return h
}

func (h *host) make(tap bool, queues int) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	// Without IPv6 the kernel sends no unsolicited packets.
	for _, what := range []string{"all", "default"} {
		os.WriteFile("/proc/sys/net/ipv6/conf/"+what+"/disable_ipv6", []byte("1"), 0)
	}
	var err error
	if h.files, err = tun.Open(tun.Options{Name: "toetest", Queues: queues, TAP: tap}); err != nil {
		return err
	}
	return h.up()
}

func (h *host) up() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, _ := unix.NewIfreq("toetest")
	ifr.SetUint32(65521)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, ifr); err != nil {
		return err
	}
	ifr.SetUint32(65535) // a TAP takes 14 bytes less
	unix.IoctlIfreq(fd, unix.SIOCSIFMTU, ifr)
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return err
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	if h.sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(h.sock, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	unix.SetsockoptInt(h.sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptTimeval(h.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
	return unix.Bind(h.sock, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())})
}

// vnet is the header of 10 bytes that a packet socket uses.
type vnet [10]byte

// send hands a packet to the interface, to come out at the pump.
func (h *host) send(t testing.TB, hdr vnet, b []byte) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := unix.Write(h.sock, append(hdr[:], b...))
		if err == nil {
			return
		}
		if err != unix.ENOBUFS || time.Now().After(deadline) {
			t.Fatalf("host: send %d bytes: %v", len(b), err)
		}
	}
}

// recv returns the next packet that came in through the pump; false after the
// time in ms.
func (h *host) recv(t testing.TB, ms int) (hdr vnet, b []byte, ok bool) {
	t.Helper()
	deadline := time.Now().Add(time.Duration(ms) * time.Millisecond)
	buf := make([]byte, 1<<17)
	for {
		left := max(int(time.Until(deadline)/time.Millisecond), 0)
		p := []unix.PollFd{{Fd: int32(h.sock), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, left); n == 0 {
			if left == 0 {
				return hdr, nil, false
			}
			continue
		}
		n, from, err := unix.Recvfrom(h.sock, buf, 0)
		if err != nil {
			t.Fatalf("host: recv: %v", err)
		}
		if ll, is := from.(*unix.SockaddrLinklayer); is && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		return vnet(buf[:10]), buf[10:n], true
	}
}

// want receives a packet that must come.
func (h *host) want(t testing.TB) (vnet, []byte) {
	t.Helper()
	hdr, b, ok := h.recv(t, 5000)
	if !ok {
		t.Fatal("host: no packet within 5 s")
	}
	return hdr, b
}

// world is a host and a card with a keeper and a pump between them.
type world struct {
	*host
	k    *Keeper
	card *fakecard.Card
	path string

	mu     sync.Mutex
	events []string
}

// here runs a pump in this process: killing it hangs up.
func here(orders *os.File) (Process, error) { return confinedHere(orders, nil) }

func confinedHere(orders *os.File, confine Confine) (Process, error) {
	fd, err := unix.FcntlInt(orders.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &inside{fd: fd, done: make(chan struct{})}
	go func() {
		p.err = Pump(fd, confine)
		unix.Close(fd)
		close(p.done)
	}()
	return p, nil
}

type inside struct {
	fd   int
	err  error
	done chan struct{}
}

func (p *inside) PID() int { return os.Getpid() }
func (p *inside) Kill() {
	select {
	case <-p.done:
	default:
		unix.Shutdown(p.fd, unix.SHUT_RDWR)
	}
}
func (p *inside) Wait() string {
	<-p.done
	if p.err != nil {
		return p.err.Error()
	}
	return "ended"
}

type worldOptions struct {
	tap     bool
	process bool // the pump is a process of its own
	device  func(*Device)
	card    fakecard.Options
	noCard  bool
	launch  func(generation int32, orders *os.File) (Process, error) // pumps of the test's own making
}

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	return newWorldOn(t, newHost(t, o.tap, max(o.card.Pairs, 1)), o)
}

func newWorldOn(t testing.TB, h *host, o worldOptions) *world {
	t.Helper()
	w := &world{host: h, path: filepath.Join(t.TempDir(), "s")}
	dev := Device{Name: "test", Socket: w.path, MAC: net.HardwareAddr{2, 1, 2, 3, 4, 5}, MTU: 65535, Files: h.files, Seam: !o.tap}
	if o.device != nil {
		o.device(&dev)
	}
	opts := Options{Launch: here, Event: w.event}
	if o.process {
		opts.Launch = nil
	}
	if o.launch != nil {
		launcher(&opts, o.launch)
	}
	var err error
	if w.k, err = NewKeeper(dev, opts); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.k.Serve(t.Context()) }()
	t.Cleanup(func() {
		if w.card != nil {
			w.card.Close()
		}
		w.k.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("events: %q", w.news())
		}
	})
	if o.noCard {
		return w
	}
	if w.card, err = fakecard.Connect(w.path, o.card); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) event(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e.Text)
}

func (w *world) news() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.events...)
}

// stat waits until a counter has the wanted value.
func (w *world) stat(t testing.TB, name string, get func(QueueStats) uint64, want uint64) {
	t.Helper()
	var got uint64
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = get(w.k.Stats()[0]); got == want {
			return
		}
	}
	t.Errorf("%s: %d, want %d", name, got, want)
}

// hasEvent waits for an event that contains a text.
func (w *world) hasEvent(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if strings.Contains(strings.Join(w.news(), "\n"), text) {
			return
		}
	}
	t.Errorf("no event tells %q: %q", text, w.news())
}
