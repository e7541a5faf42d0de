// Package holder is the process that keeps the network namespace of toe exec.
package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/child"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/link/tun"
)

// Verb is the hidden verb of the program that becomes a namespace holder: a process
// in a network namespace of its own, and a user namespace of its own where the
// caller is not root. It makes the TUN there, passes its descriptors to the
// supervisor, and opens connections for it. Orders come on descriptor 3 as packets
// of JSON.
const Verb = "netns-holder"

// patience is how long a holder may take to be ready.
const patience = 10 * time.Second

// Interface is the link's name in the namespace of toe exec.
const Interface = "toe0"

// maxPacket bounds an order and an answer, in bytes.
const maxPacket = 4096

type order struct {
	Op      string          `json:"op"` // link, namespaces, dial, ping, lock, abort
	On      bool            `json:"on,omitempty"`
	Queues  int             `json:"queues,omitempty"`
	Addrs   store.LinkAddrs `json:"addrs"`
	Network string          `json:"network,omitempty"`
	Address string          `json:"address,omitempty"`
	Limit   time.Duration   `json:"limit,omitempty"`
}

type answer struct {
	Error   string `json:"error,omitempty"`
	Timeout bool   `json:"timeout,omitempty"`
}

// Holder is the supervisor's end of a holder.
type Holder struct {
	// Namespaces are descriptors of the network namespace and, without root, of
	// the user namespace that is entered before it.
	Namespaces []*os.File

	addrs  store.LinkAddrs
	cmd    *exec.Cmd
	orders *os.File
	Died   chan error // says how the process ended, then is closed
}

// Start starts a holder and returns the TUN that it made, one file a queue.
func Start(ctx context.Context, queues int, a store.LinkAddrs) (*Holder, []*os.File, error) {
	n, err := start()
	if err != nil {
		return nil, nil, err
	}
	n.addrs = a
	files, err := n.ask(ctx, order{Op: "link", Queues: queues, Addrs: a, Limit: patience})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("namespace for toe exec: %w", err), n.Close())
	}
	// The holder opens them itself: its process id may be another's by the time
	// that it is looked up.
	n.Namespaces, err = n.ask(ctx, order{Op: "namespaces"})
	if err != nil {
		fds.CloseAll(files)
		return nil, nil, errors.Join(fmt.Errorf("namespace for toe exec: %w", err), n.Close())
	}
	return n, files, nil
}

// Ping sends a packet of full size to the card and waits for its answer.
func (n *Holder) Ping(ctx context.Context, card netip.Addr) error {
	_, err := n.ask(ctx, order{Op: "ping", Address: card.String()})
	return err
}

// Lock locks the path MTU of the link's routes, or unlocks it.
func (n *Holder) Lock(ctx context.Context, on bool) error {
	_, err := n.ask(ctx, order{Op: "lock", On: on, Addrs: n.addrs})
	return err
}

// Abort aborts the TCP connections over the link.
func (n *Holder) Abort(ctx context.Context) error {
	_, err := n.ask(ctx, order{Op: "abort", Addrs: n.addrs})
	return err
}

// start starts the process in namespaces of its own.
func start() (*Holder, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair for the namespace holder: %w", err)
	}
	n := &Holder{orders: os.NewFile(uintptr(pair[0]), "holder"), Died: make(chan error, 1)}
	theirs := os.NewFile(uintptr(pair[1]), "orders")
	defer theirs.Close()
	n.cmd = exec.Command("/proc/self/exe", Verb)
	n.cmd.Args[0] = "toe"
	n.cmd.ExtraFiles = []*os.File{theirs}
	n.cmd.Stderr = os.Stderr
	n.cmd.SysProcAttr = processAttr()
	if err := child.Start(n.cmd); err != nil {
		n.orders.Close()
		return nil, privilege.Namespaces("namespace for toe exec", err)
	}
	go func() {
		_ = n.cmd.Wait()
		n.Died <- fmt.Errorf("the process that keeps the namespace ended (%s)", n.cmd.ProcessState)
		close(n.Died)
	}()
	return n, nil
}

// processAttr puts a process into namespaces of its own. Without root it keeps its
// user id there, and so does a process that joins it. Ambient capabilities let it
// set up the network.
func processAttr() *syscall.SysProcAttr {
	if store.Privileged() {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	uid, gid := os.Geteuid(), os.Getegid()
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN},
	}
}

// ask sends an order with a socket for its answer, so that several can be under
// way. It returns the descriptors in the answer.
func (n *Holder) ask(ctx context.Context, o order) ([]*os.File, error) {
	if deadline, ok := ctx.Deadline(); ok {
		o.Limit = time.Until(deadline)
	}
	if o.Limit <= 0 {
		o.Limit = patience
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "answer")
	defer theirs.Close()
	conn, err := packetConn(pair[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	err = fds.Socket(n.orders.Fd()).Send(o, theirs)
	theirs.Close() // the holder has the only copy: its death is an end of file
	if err != nil {
		return nil, fmt.Errorf("the process that keeps the namespace is gone: %w", err)
	}
	_ = conn.SetDeadline(time.Now().Add(o.Limit + time.Second))
	return readAnswer(conn)
}

func packetConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "packets")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

func readAnswer(conn *net.UnixConn) ([]*os.File, error) {
	var a answer
	passed, err := fds.Receive(conn, &a, maxPacket, tun.MaxQueues)
	if err != nil {
		return nil, fmt.Errorf("no answer from the process that keeps the namespace: %w", err)
	}
	files := passedFiles(passed)
	switch {
	case a.Timeout:
		fds.CloseAll(files)
		return nil, fmt.Errorf("%s: %w", a.Error, os.ErrDeadlineExceeded)
	case a.Error != "":
		fds.CloseAll(files)
		return nil, errors.New(a.Error)
	}
	return files, nil
}

func passedFiles(passed []int) (files []*os.File) {
	for i, fd := range passed {
		files = append(files, os.NewFile(uintptr(fd), "passed:"+strconv.Itoa(i)))
	}
	return files
}

func (n *Holder) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	files, err := n.ask(ctx, order{Op: "dial", Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	defer fds.CloseAll(files)
	if len(files) != 1 {
		return nil, fmt.Errorf("dial %s: %d descriptors, want 1", address, len(files))
	}
	return net.FileConn(files[0])
}

// Close ends the holder. The namespace ends with the last process in it.
func (n *Holder) Close() error {
	fds.CloseAll(n.Namespaces)
	n.orders.Close()
	select {
	case <-n.Died:
	case <-time.After(2 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.Died
	}
	return nil
}
