package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/internal/tail"
	"golang.org/x/sys/unix"
)

// QEMU 7.2 without KVM dies of a NULL vector_irqfd (in msix_set_vector_notifiers) when a vhost-user
// device with MSI-X starts. A trial shows whether this host's QEMU does. It starts a QEMU whose CPU
// halts at once (the BIOS is 64 KiB of hlt), sets the device up register by register through the
// qtest protocol (QEMU: docs/devel/testing/qtest.rst), and connects a vhost-user back end that
// answers the two mandatory requests.

// msixLimit bounds the whole trial, which takes 0.1 s.
const msixLimit = 5 * time.Second

// msixWorks starts a vhost-user device with MSI-X in a separate QEMU. On an error the result is
// unknown, and the device gets no MSI-X, which always works.
func (m *Machine) msixWorks(ctx context.Context, known features) (bool, error) {
	return m.tryDevice(ctx, known, true)
}

// tryDevice starts the device with MSI-X, or without it for comparison.
func (m *Machine) tryDevice(ctx context.Context, known features, msix bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, msixLimit)
	defer cancel()
	cell, err := m.baseCell(known.path)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "toe-qemu-msix-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	bios, socket := filepath.Join(dir, "bios"), filepath.Join(dir, "vhost")
	if err := os.WriteFile(bios, bytes.Repeat([]byte{0xf4}, 64<<10), 0o644); err != nil {
		return false, err
	}
	// The socket has a path, because QEMU passes no descriptors over a socket without one.
	backEnd, err := net.Listen("unix", socket)
	if err != nil {
		return false, err
	}
	defer backEnd.Close()
	if err := sandbox.Admit(socket, m.cfg.UID, m.cfg.GID, true); err != nil {
		return false, err
	}
	cell.Binds = append(cell.Binds, sandbox.Bind{Source: bios, Target: cellKernel}, sandbox.Bind{Source: socket, Target: cellSocket(0), Write: true})
	cell.Argv = []string{"qemu-msix-trial", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "tcg", "-machine", "pc,memory-backend=ram", "-m", "32M", "-bios", cellKernel,
		"-object", "memory-backend-memfd,id=ram,size=32M,share=on",
		"-chardev", "socket,id=test,fd=4", "-object", "qtest,id=qtest,chardev=test",
		"-chardev", "socket,id=vhost,path=" + cellSocket(0), "-netdev", "vhost-user,id=net,chardev=vhost",
		"-device", "virtio-net-pci,netdev=net,addr=4,disable-modern=on,romfile=,vectors=3",
	}
	test, testEnd, err := connPair("qtest")
	if err != nil {
		return false, err
	}
	defer test.Close()
	stderr, w, err := os.Pipe()
	if err != nil {
		testEnd.Close()
		return false, err
	}
	defer stderr.Close()
	proc, err := sandbox.Start(ctx, cell, sandbox.Stdio{Err: w, Extra: []*os.File{testEnd}})
	testEnd.Close()
	w.Close()
	if err != nil {
		return false, err
	}
	answered := make(chan struct{})
	go func() { defer close(answered); serveVhost(backEnd) }()
	until, _ := ctx.Deadline()
	_ = test.SetDeadline(until)
	tried := startDevice(test, msix)
	// A crashed QEMU exits by itself; a running one is killed.
	if errors.Is(tried, io.EOF) || errors.Is(tried, syscall.ECONNRESET) || errors.Is(tried, syscall.EPIPE) {
		select {
		case <-proc.Done():
		case <-ctx.Done():
		}
	}
	_ = proc.Kill()
	<-proc.Done()
	backEnd.Close()
	<-answered
	return verdict(tried, proc.State().Sys().(syscall.WaitStatus), lastWords(stderr))
}

// lastWords returns the last line in the stderr pipe of a process that has ended.
func lastWords(r *os.File) string {
	var words tail.Buffer
	buf := make([]byte, tail.Size)
	n, _ := r.Read(buf)
	_, _ = words.Write(buf[:n])
	return words.LastLine()
}

func verdict(tried error, ws syscall.WaitStatus, words string) (bool, error) {
	switch {
	case tried == nil:
		return true, nil
	case ws.Signaled() && ws.Signal() == syscall.SIGSEGV:
		return false, nil
	}
	return false, fmt.Errorf("trying MSI-X: %w (QEMU's wait status is %#x, its last words %q)", tried, int(ws), words)
}

// connPair returns a connected pair: this process's end and QEMU's.
func connPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair for %s: %w", name, err)
	}
	ours := os.NewFile(uintptr(fds[0]), name)
	theirs := os.NewFile(uintptr(fds[1]), name+" of QEMU")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
	}
	return c, theirs, err
}

// serveVhost serves one front end until it disconnects.
func serveVhost(l net.Listener) {
	c, err := l.Accept()
	if err != nil {
		return // closed: QEMU did not connect
	}
	defer c.Close()
	_ = answerVhost(c) // ends when the front end disconnects
}

// answerVhost is a minimal back end (QEMU: docs/interop/vhost-user.rst). It offers no features, so
// only two messages require a reply. The kernel closes passed descriptors, because they are not
// received.
func answerVhost(c net.Conn) error {
	const getFeatures, getVringBase, isReply = 1, 11, 1<<2 | 1
	var head [12]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		size := binary.LittleEndian.Uint32(head[8:])
		if size > 4096 {
			return fmt.Errorf("a message of %d bytes", size)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(c, body); err != nil {
			return err
		}
		switch binary.LittleEndian.Uint32(head[:]) {
		case getFeatures:
			body = make([]byte, 8)
		case getVringBase: // reply with the payload: the index and 0
		default:
			continue
		}
		binary.LittleEndian.PutUint32(head[4:], isReply)
		binary.LittleEndian.PutUint32(head[8:], uint32(len(body)))
		if _, err := c.Write(append(head[:], body...)); err != nil {
			return err
		}
	}
}

// startDevice initializes the device up to DRIVER_OK as a driver does, through the legacy registers
// (virtio 1.2, 4.1.4.10). If msix is set, MSI-X is enabled and unmasked.
func startDevice(c net.Conn, msix bool) error {
	const (
		config = 1<<31 | 4<<11 // PCI address of device 4
		ioBase = 0xc000
		table  = uint32(0xe0000000) // address of the MSI-X table
	)
	q := &qtest{out: c, in: bufio.NewReader(io.LimitReader(c, 64<<10))}
	pci := func(reg, value uint32) {
		q.do("outl 0xcf8 0x%x", config|reg)
		q.do("outl 0xcfc 0x%x", value)
	}
	pci(0x10, ioBase) // BAR 0: the legacy registers
	pci(0x14, table)  // BAR 1: MSI-X
	pci(0x04, 7)      // command: I/O, memory, bus master
	if msix {
		at, err := q.capability(config, 0x11)
		if err != nil {
			return err
		}
		pci(at, 1<<31) // message control: enable
		for v := range uint32(3) {
			q.do("writel 0x%x 0x%x", table+16*v, uint32(0xfee00000))
			q.do("writel 0x%x 0x0", table+16*v+12) // unmask
		}
	}
	q.do("outb 0x%x 3", ioBase+18) // ACKNOWLEDGE | DRIVER
	q.do("outl 0x%x 0", ioBase+4)  // no features
	for n := range 2 {
		q.do("outw 0x%x %d", ioBase+14, n)       // queue select
		q.do("outl 0x%x %d", ioBase+8, 256+16*n) // its page, above 1 MiB
		if msix {
			q.do("outw 0x%x %d", ioBase+22, n+1) // its vector
		}
	}
	q.do("outb 0x%x 7", ioBase+18) // DRIVER_OK: the back end starts
	q.do("inb 0x%x", ioBase+18)    // still there?
	return q.err
}

// qtest is one qtest session. After the first error nothing more is sent.
type qtest struct {
	out io.Writer
	in  *bufio.Reader
	err error
}

// do sends a command and returns the value of the reply, if it has one.
func (q *qtest) do(format string, args ...any) string {
	if q.err != nil {
		return ""
	}
	if _, q.err = fmt.Fprintf(q.out, format+"\n", args...); q.err != nil {
		return ""
	}
	for {
		line, err := q.in.ReadString('\n')
		if err != nil {
			q.err = err
			return ""
		}
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "OK")
		switch {
		case ok:
			return strings.TrimSpace(value)
		case strings.HasPrefix(line, "IRQ "):
			continue
		}
		q.err = fmt.Errorf("qtest: %q answered with %.100q", fmt.Sprintf(format, args...), line)
		return ""
	}
}

// capability finds a capability in the device's list (PCI 3.0, 6.7).
func (q *qtest) capability(config uint32, id uint32) (uint32, error) {
	read := func(reg uint32) (v uint32) {
		q.do("outl 0xcf8 0x%x", config|reg&^3)
		_, _ = fmt.Sscanf(q.do("inl 0xcfc"), "0x%x", &v)
		return v >> (8 * (reg & 3))
	}
	at := read(0x34) & 0xfc
	for range 48 {
		if at == 0 || q.err != nil {
			break
		}
		head := read(at)
		if head&0xff == id {
			return at, nil
		}
		at = head >> 8 & 0xfc
	}
	return 0, errors.Join(q.err, fmt.Errorf("the device has no capability %#x", id))
}
