// Package disktest is for tests of disks: a driver without a card, a worker inside the test's
// process, and a file that remembers what was not flushed.
package disktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// Card is the driver of a virtio-blk device and its front end, over memory of its own. It has one
// request in flight at a time, or the descriptors of a test that breaks the rules.
type Card struct {
	Front    *fakecard.Front
	Features uint64
	Mem      []byte // byte i has the guest address fakecard.GuestBase+i
	Timeout  time.Duration

	file       *os.File
	kick, call *os.File
	next, last uint16 // avail index to fill, used index to read
}

// Places in the card's memory.
const (
	Entries = 128
	descAt  = 0
	availAt = 0x1000
	usedAt  = 0x2000
	headAt  = 0x3000 // of a request, with the status behind it
	DataAt  = 0x10000
	// DataLen is the room for data.
	DataLen = 8 << 20
	memLen  = DataAt + DataLen
)

// ErrTimeout reports that the device has not answered.
var ErrTimeout = errors.New("the disk did not answer in time")

// Connect dials the socket of a disk, accepts its features but for refuse, and starts the ring.
func Connect(path string, refuse uint64) (c *Card, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c = &Card{Timeout: 10 * time.Second, Front: &fakecard.Front{Conn: conn, Timeout: 10 * time.Second}}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	fd, err := unix.MemfdCreate("disktest", unix.MFD_CLOEXEC)
	if err != nil {
		return c, err
	}
	c.file = os.NewFile(uintptr(fd), "card memory")
	if err := c.file.Truncate(memLen); err != nil {
		return c, err
	}
	if c.Mem, err = unix.Mmap(fd, 0, memLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return c, err
	}
	for _, f := range []**os.File{&c.kick, &c.call} {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return c, err
		}
		*f = os.NewFile(uintptr(fd), "eventfd")
	}
	return c, c.start(refuse)
}

// start runs the conversation until the ring runs.
func (c *Card) start(refuse uint64) error {
	f := c.Front
	offer, err := f.Get(vhostuser.GetFeatures)
	if err != nil {
		return err
	}
	proto, err := f.Get(vhostuser.GetProtocolFeatures)
	if err != nil {
		return err
	}
	if err := f.Do(vhostuser.SetProtocolFeatures, fakecard.U64(proto)); err != nil {
		return err
	}
	f.Ack = true
	c.Features = offer &^ (refuse | vhostuser.RingEventIdx)
	const user = fakecard.UserBase
	region := append(fakecard.U32(1, 0), fakecard.U64(fakecard.GuestBase, memLen, user, 0)...)
	for _, m := range []struct {
		r     vhostuser.Request
		b     []byte
		files []*os.File
	}{
		{vhostuser.SetFeatures, fakecard.U64(c.Features), nil},
		{vhostuser.SetMemTable, region, []*os.File{c.file}},
		{vhostuser.SetVringNum, fakecard.U32(0, Entries), nil},
		{vhostuser.SetVringBase, fakecard.U32(0, uint32(c.next)), nil},
		{vhostuser.SetVringAddr, append(fakecard.U32(0, 0),
			fakecard.U64(user+descAt, user+usedAt, user+availAt, 0)...), nil},
		{vhostuser.SetVringCall, fakecard.U64(0), []*os.File{c.call}},
		{vhostuser.SetVringKick, fakecard.U64(0), []*os.File{c.kick}},
		{vhostuser.SetVringEnable, fakecard.U32(0, 1), nil},
	} {
		if err := f.Do(m.r, m.b, m.files...); err != nil {
			return fmt.Errorf("request %d: %w", m.r, err)
		}
	}
	return nil
}

// Close hangs up.
func (c *Card) Close() {
	c.Front.Conn.Close()
	for _, f := range []*os.File{c.file, c.kick, c.call} {
		if f != nil {
			f.Close()
		}
	}
	if c.Mem != nil {
		unix.Munmap(c.Mem)
	}
}

// Config reads n bytes of the device's configuration space.
func (c *Card) Config(n int) ([]byte, error) {
	b, err := c.Front.Ask(vhostuser.GetConfig, append(fakecard.U32(0, uint32(n), 0), make([]byte, n)...))
	if err != nil || len(b) != 12+n {
		return nil, fmt.Errorf("GET_CONFIG: %d bytes: %w", len(b), err)
	}
	return b[12:], nil
}

// Put makes a chain of these descriptors available, from entry 0 on, and kicks. Next and the flag
// for it are set here.
func (c *Card) Put(chain ...fakecard.Desc) {
	for i, d := range chain {
		if i < len(chain)-1 {
			d.Flags |= fakecard.Next
			d.Next = uint16(i + 1)
		}
		b := c.Mem[descAt+16*i:]
		binary.LittleEndian.PutUint64(b, d.Addr)
		binary.LittleEndian.PutUint32(b[8:], d.Len)
		binary.LittleEndian.PutUint16(b[12:], d.Flags)
		binary.LittleEndian.PutUint16(b[14:], d.Next)
	}
	binary.LittleEndian.PutUint16(c.Mem[availAt+4+2*(int(c.next)%Entries):], 0)
	c.next++
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.Mem[availAt])), uint32(c.next)<<16)
	c.kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Wait waits for the completion of what was put and returns the bytes written.
func (c *Card) Wait() (int, error) {
	for end := time.Now().Add(c.Timeout); ; {
		used := atomic.LoadUint32((*uint32)(unsafe.Pointer(&c.Mem[usedAt])))
		if uint16(used>>16) != c.last {
			n := binary.LittleEndian.Uint32(c.Mem[usedAt+8+8*(int(c.last)%Entries):])
			c.last++
			return int(n), nil
		}
		if time.Now().After(end) {
			return 0, ErrTimeout
		}
		p := []unix.PollFd{{Fd: int32(c.call.Fd()), Events: unix.POLLIN}}
		unix.Poll(p, 10)
		var b [8]byte
		unix.Read(int(c.call.Fd()), b[:])
	}
}

// Head writes the header of a request and returns its descriptor.
func (c *Card) Head(kind uint32, sector uint64) fakecard.Desc {
	binary.LittleEndian.PutUint32(c.Mem[headAt:], kind)
	binary.LittleEndian.PutUint64(c.Mem[headAt+8:], sector)
	c.Mem[headAt+16] = 0xff
	return fakecard.Desc{Addr: fakecard.GuestBase + headAt, Len: 16}
}

// Tail returns the descriptor of the status.
func (c *Card) Tail() fakecard.Desc {
	return fakecard.Desc{Addr: fakecard.GuestBase + headAt + 16, Len: 1, Flags: fakecard.Write}
}

// Status is the status of the last request, 0xff if the device has not written it.
func (c *Card) Status() byte { return c.Mem[headAt+16] }

// Request executes a request with data that the device reads, or writes if in is set. Data is
// copied through the card's memory in segments of 4096 bytes.
func (c *Card) Request(kind uint32, sector uint64, data []byte, in bool) (byte, error) {
	chain := []fakecard.Desc{c.Head(kind, sector)}
	flags := uint16(0)
	if in {
		flags = fakecard.Write
	} else {
		copy(c.Mem[DataAt:], data)
	}
	each := max(4096, (len(data)/(Entries-4)+4095)&^4095)
	for at := 0; at < len(data); at += each {
		chain = append(chain, fakecard.Desc{
			Addr: fakecard.GuestBase + DataAt + uint64(at), Len: uint32(min(each, len(data)-at)), Flags: flags,
		})
	}
	c.Put(append(chain, c.Tail())...)
	if _, err := c.Wait(); err != nil {
		return 0xff, err
	}
	if in {
		copy(data, c.Mem[DataAt:])
	}
	return c.Status(), nil
}

// Raw writes descriptors and heads as they are and makes so many heads available, for tests that
// break the rules.
func (c *Card) Raw(descs, heads []byte, ahead uint16) {
	copy(c.Mem[descAt:availAt], descs)
	copy(c.Mem[availAt+4:availAt+4+2*Entries], heads)
	c.next += ahead
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.Mem[availAt])), uint32(c.next)<<16)
	c.kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Settle stops the ring, after the request under way, and returns the number of requests that were
// completed.
func (c *Card) Settle() uint16 {
	b, err := c.Front.Ask(vhostuser.GetVringBase, fakecard.U32(0, 0))
	if err != nil || len(b) != 8 {
		return 0
	}
	return uint16(binary.NativeEndian.Uint32(b[4:]))
}
