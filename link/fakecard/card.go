// Package fakecard is the peer of a link without a card: the driver of a
// virtio-net device and its vhost-user front end, over memory of its own. Tests
// and benchmarks use it instead of a guest. It obeys the specification and checks
// that the device does. Ring's raw accesses can break any rule.
package fakecard

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// Addresses of the card's memory, in two address spaces that must not be mixed up.
const (
	GuestBase = 0x4000_0000
	UserBase  = 0x7f00_0000_0000
)

// FrameMax is the largest frame on the bus in bytes.
const FrameMax = frame.SeamLen + frame.MaxPacket

// Options select what the driver does. The zero value is like Linux: one pair,
// 256 entries, mergeable buffers of a page, event indexes.
type Options struct {
	Pairs       int    // queue pairs, default 1
	Size        int    // entries of each ring, a power of two, default 256
	NoMergeable bool   // receive buffers each take the largest frame
	NoEventIdx  bool   // use the rings' flags
	Indirect    bool   // chains stand in indirect tables
	Segments    int    // descriptors of a chain, default 1
	Buffer      int    // bytes of a receive buffer, default 4096, or 65562 without mergeable
	SendBuffer  int    // bytes of a send buffer, default FrameMax
	Refuse      uint64 // feature bits not to take
	Disabled    bool   // leave the pairs disabled
	Signals     bool   // use a pipe for calls, as a driver that is called by signals must
	Control     bool   // have a control ring, as User-Mode Linux does
	Base        uint16 // index at which every ring starts
	Split       bool   // pass the memory as two regions, with the border within the buffers
	// Timeout bounds every wait, default 5 s.
	Timeout time.Duration
}

func (o Options) defaults() Options {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.Pairs, 1)
	def(&o.Size, 256)
	def(&o.Segments, 1)
	if o.NoMergeable {
		def(&o.Buffer, 65562) // the least that virtio 1.2 section 5.1.6.3.1 allows
	}
	def(&o.Buffer, 4096)
	def(&o.SendBuffer, FrameMax)
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	return o
}

// Errors of a card's operations. ErrDevice is the device's fault.
var (
	ErrTimeout = errors.New("device did not answer in time")
	ErrDevice  = errors.New("device broke the rules")
	ErrSize    = errors.New("frame does not fit a send buffer")
)

// Card is a connected driver. Each ring may be used by one goroutine at a
// time, so a pair can send and receive at once.
type Card struct {
	Front    *Front
	Features uint64 // what was negotiated
	opts     Options
	memory   *memory
	rings    []*Ring
}

// Connect dials the back end's socket, negotiates, and starts every ring.
func Connect(path string, o Options) (*Card, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return Attach(conn, o)
}

// Attach is Connect over an existing connection. The card owns it.
func Attach(conn *net.UnixConn, o Options) (*Card, error) {
	c := &Card{opts: o.defaults()}
	if err := c.build(); err != nil {
		conn.Close()
		c.free()
		return nil, err
	}
	if err := c.attach(conn); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// build makes memory and rings.
func (c *Card) build() error {
	n := 2 * c.opts.Pairs
	if c.opts.Control {
		n++
	}
	layouts := make([]layout, n)
	total := uint64(0)
	for i := range layouts {
		layouts[i], total = plan(c.opts, i%2 == 0 && i < 2*c.opts.Pairs, total)
	}
	var err error
	if c.memory, err = newMemory(total); err != nil {
		return err
	}
	for i := range n {
		r, err := newRing(c, i, layouts[i])
		if r != nil {
			c.rings = append(c.rings, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attach runs the conversation until the rings run.
func (c *Card) attach(conn *net.UnixConn) error {
	c.Front = &Front{Conn: conn, Timeout: c.opts.Timeout}
	if err := c.negotiate(); err != nil {
		return err
	}
	for _, r := range c.rings {
		r.eventIdx = c.Features&vhostuser.RingEventIdx != 0
	}
	if err := c.SetMemory(); err != nil {
		return err
	}
	for i, r := range c.rings {
		if err := c.Start(i, r.next); err != nil {
			return err
		}
		if !c.opts.Disabled {
			if err := c.Enable(i, true); err != nil {
				return err
			}
		}
	}
	for i := 0; i < 2*c.opts.Pairs; i += 2 {
		c.rings[i].post()
	}
	return nil
}

// Pair is the rings of one queue pair.
func (c *Card) Pair(i int) (receive, send *Ring) { return c.rings[2*i], c.rings[2*i+1] }

// Send sends one frame on pair 0 (virtio header of 12 bytes, Ethernet, packet)
// and waits while the ring is full.
func (c *Card) Send(b []byte) error { return c.rings[1].Send(b) }

// SendBatch sends as many of the frames as have room now on pair 0, with at
// most one kick, and allocates nothing.
func (c *Card) SendBatch(frames [][]byte) (int, error) { return c.rings[1].SendBatch(frames) }

// Recv waits for a frame on pair 0 and copies it, whole, to b.
func (c *Card) Recv(b []byte) (int, error) { return c.rings[0].Recv(b) }

// RecvBatch takes the frames that have arrived on pair 0 without waiting:
// bufs[i][:sizes[i]] is the i-th.
func (c *Card) RecvBatch(bufs [][]byte, sizes []int) (int, error) {
	return c.rings[0].RecvBatch(bufs, sizes)
}

// Close hangs up and releases everything.
func (c *Card) Close() error {
	if c.Front != nil {
		c.Front.Conn.Close()
	}
	c.free()
	return nil
}

// Hangup ends the conversation and keeps memory and rings, for Redial.
func (c *Card) Hangup() { c.Front.Conn.Close() }

// Redial restarts every ring, empty, over a new connection to the back end.
func (c *Card) Redial(path string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	for _, r := range c.rings {
		r.reset(c.opts.Base)
	}
	return c.attach(conn)
}

func (c *Card) free() {
	for _, r := range c.rings {
		r.close()
	}
	c.rings = nil
	if c.memory != nil {
		c.memory.close()
		c.memory = nil
	}
}

// memory is the card's: a memfd that the back end maps too.
type memory struct {
	file *os.File
	b    []byte
}

func newMemory(size uint64) (*memory, error) {
	size = (size + 4095) &^ 4095
	fd, err := unix.MemfdCreate("fakecard", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "fakecard memory")
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("mmap of %d bytes: %w", size, err)
	}
	return &memory{f, b}, nil
}

func (m *memory) close() {
	unix.Munmap(m.b)
	m.file.Close()
}

// Memory is all of the card's memory; byte i has the guest address
// GuestBase+i and the front end's address UserBase+i.
func (c *Card) Memory() []byte { return c.memory.b }

// MemoryFile is the file behind it.
func (c *Card) MemoryFile() *os.File { return c.memory.file }
