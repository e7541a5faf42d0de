// Package passt runs passt(1), which opens the connections of a user port as
// sockets of this host.
package passt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/child"
	"github.com/toe-project/toe/internal/fds"
)

// What a card sees behind a user port; QEMU's own user network has the same
// IPv4 addresses, so that a card may move from one machine to another.
const (
	userCard = "10.0.2.15"
	userMask = "24"
	userGate = "10.0.2.2"
	// CardPrefix and Gateway are what passt's DHCP gives the card.
	CardPrefix = userCard + "/" + userMask
	Gateway    = userGate
	DNS        = "10.0.2.3" // asks the resolver of the host, also one on its loopback
)

// Start starts a passt for a user port and returns the pump's end of its
// stream socket. passt opens the card's connections as sockets of this host,
// without privilege.
//
// The loopback of the host is kept off by --no-map-gw, and by the pump for the
// versions that would connect to it by its own addresses (link/loopback.go).
func Start(o Options) (*Passt, *os.File, error) {
	run := &Passt{
		Options: o, Died: make(chan error, 1), Renewed: make(chan Renewal),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	ours, err := run.pair()
	if err != nil {
		return nil, nil, err
	}
	go run.keep()
	return run, ours, nil
}

// Options say what a user port needs.
type Options struct {
	Program Program
	Name    string // of the port, for messages
	MTU     int    // bytes
	Around  bool   // keep off the routes through the card
	Logf    func(format string, args ...any)
}

// Renewal is a new socket in place of one whose passt has ended.
type Renewal struct {
	File *os.File
	Why  error // how the one before ended
}

// pair makes the socket between passt and the pump and returns the pump's end.
func (r *Passt) pair() (ours *os.File, err error) {
	ours, r.theirs, err = socketpair()
	if err != nil {
		return nil, err
	}
	gauge, err := unix.FcntlInt(ours.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		fds.CloseAll([]*os.File{ours, r.theirs})
		return nil, fmt.Errorf("socket of passt: %w", err)
	}
	r.gauge = os.NewFile(uintptr(gauge), "passt, to look at")
	return ours, nil
}

// Passt is one passt, started as soon as the host has a way to anywhere.
type Passt struct {
	Options
	theirs     *os.File // the socket's end for the next passt
	gauge      *os.File // the pump's end once more
	Renewed    chan Renewal
	Died       chan error
	waiting    atomic.Bool // for a default route
	quit, done chan struct{}
}

// NoRoute is why a user port has no address, in place of what a DHCP client
// sees of that.
const NoRoute = "the host has no default route, so there is no way out yet; " +
	"the port comes up when there is one"

func (r *Passt) Waits() string {
	if r.waiting.Load() {
		return NoRoute
	}
	return ""
}

// routePoll is how often a host without a default route is looked at again.
const routePoll = 2 * time.Second

func (r *Passt) keep() {
	defer close(r.done)
	defer close(r.Died)
	defer close(r.Renewed)
	defer func() { fds.CloseAll([]*os.File{r.theirs, r.gauge}) }()
	for tries := 0; ; {
		via4, via6, ok := r.awaitRoute()
		if !ok {
			return
		}
		began := time.Now()
		err := r.run(via4, via6)
		if err == nil {
			return
		}
		if time.Since(began) > passtStable {
			tries = 0
		}
		if tries++; tries > passtTries {
			r.Died <- err
			return
		}
		if !r.again(err, time.Duration(tries-1)*time.Second) {
			return
		}
	}
}

// A passt that exits is restarted, unless passtTries in a row lived for less than
// passtStable.
const (
	passtTries  = 5
	passtStable = time.Minute
)

// again makes a socket for another passt after a delay, and hands its other end
// to the pump. Frames in the old socket and the connections of the old passt are
// lost. It returns false when the port is closed.
func (r *Passt) again(why error, after time.Duration) bool {
	select {
	case <-r.quit:
		return false
	case <-time.After(after):
	}
	fds.CloseAll([]*os.File{r.theirs, r.gauge})
	ours, err := r.pair()
	if err != nil {
		r.Died <- errors.Join(why, err)
		return false
	}
	select {
	case r.Renewed <- Renewal{File: ours, Why: why}:
		return true
	case <-r.quit:
		ours.Close()
		return false
	}
}

// awaitRoute waits for a default route. ok is false when the port is closed.
func (r *Passt) awaitRoute() (via4, via6 string, ok bool) {
	for told := false; ; told = true {
		via4, via6 = outgoing()
		r.waiting.Store(via4 == "" && via6 == "")
		if !r.waiting.Load() {
			return via4, via6, true
		}
		if !told {
			r.Logf("port %s: %s", r.Name, NoRoute)
		}
		select {
		case <-r.quit:
			return "", "", false
		case <-time.After(routePoll):
		}
	}
}

// outgoing names the interfaces of the host's default routes, by family.
func outgoing() (via4, via6 string) {
	return defaultVia(netlink.FAMILY_V4), defaultVia(netlink.FAMILY_V6)
}

func defaultVia(family int) string {
	routes, err := netlink.RouteList(nil, family)
	if err != nil {
		return ""
	}
	best, name := 0, ""
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err == nil && (name == "" || r.Priority < best) {
			best, name = r.Priority, l.Attrs().Name
		}
	}
	return name
}

// arguments are those of a passt that has a stream socket as descriptor 3, and
// the named interfaces as the host's ways out, by family; "" for none. With
// around it stays on them where the host's default route leads through the card.
func arguments(mtu int, via4, via6 string, around bool) []string {
	args := []string{"--foreground", "--stderr", "--quiet", "--fd", "3", "--mtu", fmt.Sprint(mtu),
		"--no-map-gw", "--no-dhcp-dns", "--no-dhcp-search", "--tcp-ports", "none", "--udp-ports", "none"}
	if via4 == "" {
		args = append(args, "--ipv6-only", "--interface", via6)
	} else {
		args = append(args, "--address", userCard, "--netmask", userMask,
			"--gateway", userGate, "--dns-forward", DNS)
	}
	if via6 == "" {
		args = append(args, "--ipv4-only", "--interface", via4)
	}
	if !around {
		return args
	}
	for _, o := range [][2]string{{"--outbound-if4", via4}, {"--outbound-if6", via6}} {
		if o[1] != "" {
			args = append(args, o[:]...)
		}
	}
	return args
}

// run is one life of passt. It returns nil when it was ended on purpose.
func (r *Passt) run(via4, via6 string) error {
	cmd := r.Program.command(arguments(r.MTU, via4, via6, r.Around)...)
	cmd.ExtraFiles = []*os.File{r.theirs}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := child.Start(cmd); err != nil {
		return fmt.Errorf("passt: %w", err)
	}
	r.theirs.Close() // the pump must notice when passt is gone
	words := make(chan string, 1)
	go func() { words <- r.listen(stderr) }()
	ended, spun := make(chan struct{}), make(chan bool, 1)
	go func() {
		spins := watchPasst(cmd.Process.Pid, r.gauge, ended)
		if spins {
			_ = cmd.Process.Kill()
		}
		spun <- spins
	}()
	go func() {
		select {
		case <-r.quit:
			_ = cmd.Process.Signal(unix.SIGTERM)
			select {
			case <-ended:
			case <-time.After(time.Second):
				_ = cmd.Process.Kill()
			}
		case <-ended:
		}
	}()
	last := <-words
	_ = cmd.Wait() // how it ended is in ProcessState
	close(ended)
	spins := <-spun
	select {
	case <-r.quit:
		return nil
	default:
		if spins {
			return fmt.Errorf("passt was killed: %w", errSpins)
		}
		return fmt.Errorf("passt ended (%s) %s", cmd.ProcessState, last)
	}
}

// maxWord is how much of a line of passt's is taken note of, in bytes.
const maxWord = 1024

// listen logs what passt says and returns its last line.
func (r *Passt) listen(stderr io.Reader) (last string) {
	// Not a Scanner: that ends at a line that is too long, and passt with it,
	// once the pipe is full.
	lines := bufio.NewReaderSize(stderr, maxWord)
	for cut := false; ; {
		line, more, err := lines.ReadLine()
		if err != nil {
			return last
		}
		rest := cut
		if cut = more; rest {
			continue // of a long line
		}
		text := strings.TrimSpace(string(line))
		noise := strings.HasPrefix(text, "Failed to send") || strings.HasPrefix(text, "Don't run as root")
		if text == "" || noise {
			continue
		}
		last = text
		r.Logf("passt of port %s: %s", r.Name, text)
	}
}

func (r *Passt) Close() error {
	close(r.quit)
	select {
	case <-r.done:
		return nil
	case <-time.After(3 * time.Second):
		return fmt.Errorf("passt of port %s did not end", r.Name)
	}
}
