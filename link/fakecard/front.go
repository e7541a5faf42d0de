package fakecard

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vhostuser"
)

// Front is a vhost-user front end's side of a conversation. One goroutine
// uses it.
type Front struct {
	Conn    *net.UnixConn
	Timeout time.Duration
	// Ack asks for a reply to every request that has none of its own.
	Ack bool
}

const (
	version   = 1
	replyFlag = 4
	needReply = 8
)

// Tell sends a request without waiting for anything.
func (f *Front) Tell(r vhostuser.Request, flags uint32, payload []byte, files ...*os.File) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(r))
	b = binary.NativeEndian.AppendUint32(b, version|flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(payload)))
	return f.Raw(append(b, payload...), files...)
}

// Raw sends bytes with descriptors beside them.
func (f *Front) Raw(b []byte, files ...*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	f.Conn.SetDeadline(time.Now().Add(f.Timeout))
	_, _, err := f.Conn.WriteMsgUnix(b, oob, nil)
	return err
}

// Reply reads one reply to a request.
func (f *Front) Reply(r vhostuser.Request) ([]byte, error) {
	f.Conn.SetDeadline(time.Now().Add(f.Timeout))
	var head [12]byte
	if _, err := io.ReadFull(f.Conn, head[:]); err != nil {
		return nil, fmt.Errorf("reply to request %d: %w", r, err)
	}
	got, flags, size := binary.NativeEndian.Uint32(head[:]), binary.NativeEndian.Uint32(head[4:]), binary.NativeEndian.Uint32(head[8:])
	if got != uint32(r) || flags != version|replyFlag || size > 4096 {
		return nil, fmt.Errorf("%w: reply %d, flags %#x, %d bytes to request %d", ErrDevice, got, flags, size, r)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(f.Conn, b)
	return b, err
}

// Ask sends a request that has a reply.
func (f *Front) Ask(r vhostuser.Request, payload []byte, files ...*os.File) ([]byte, error) {
	if err := f.Tell(r, 0, payload, files...); err != nil {
		return nil, err
	}
	return f.Reply(r)
}

// Get sends a request whose reply is a number.
func (f *Front) Get(r vhostuser.Request) (uint64, error) {
	b, err := f.Ask(r, nil)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: reply of %d bytes to request %d, want 8", ErrDevice, len(b), r)
	}
	return binary.NativeEndian.Uint64(b), nil
}

// Do sends a request that has no reply, and with Ack waits for its success.
func (f *Front) Do(r vhostuser.Request, payload []byte, files ...*os.File) error {
	if !f.Ack {
		return f.Tell(r, 0, payload, files...)
	}
	if err := f.Tell(r, needReply, payload, files...); err != nil {
		return err
	}
	b, err := f.Reply(r)
	if err != nil {
		return err
	}
	if len(b) != 8 || binary.NativeEndian.Uint64(b) != 0 {
		return fmt.Errorf("request %d refused: % x", r, b)
	}
	return nil
}

// U64 and U32 are payloads.
func U64(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

// U32 is a payload of 32-bit numbers.
func U32(v ...uint32) (b []byte) {
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

// replyAck is VHOST_USER_PROTOCOL_F_REPLY_ACK.
const replyAck = 1 << 3

// wanted is the set of features that the driver accepts if they are offered.
const wanted = vhostuser.Version1 | vhostuser.ProtocolFeature | vhostuser.NetMAC | vhostuser.NetMTU | vhostuser.NetStatus |
	vhostuser.NetCSum | vhostuser.NetGuestCSum | vhostuser.NetGuestTSO4 | vhostuser.NetGuestTSO6 | vhostuser.NetGuestECN |
	vhostuser.NetHostTSO4 | vhostuser.NetHostTSO6 | vhostuser.NetHostECN | vhostuser.NetGuestUSO4 | vhostuser.NetGuestUSO6 |
	vhostuser.NetHostUSO | vhostuser.NetMQ

func (c *Card) negotiate() error {
	f := c.Front
	if err := f.Do(vhostuser.SetOwner, nil); err != nil {
		return err
	}
	offer, err := f.Get(vhostuser.GetFeatures)
	if err != nil {
		return err
	}
	proto, err := f.Get(vhostuser.GetProtocolFeatures)
	if err != nil {
		return err
	}
	if err := f.Do(vhostuser.SetProtocolFeatures, U64(proto)); err != nil {
		return err
	}
	f.Ack = proto&replyAck != 0
	c.Features = offer & c.take()
	return f.Do(vhostuser.SetFeatures, U64(c.Features))
}

func (c *Card) take() uint64 {
	take := uint64(wanted)
	if !c.opts.NoMergeable {
		take |= vhostuser.NetMergeable
	}
	if !c.opts.NoEventIdx {
		take |= vhostuser.RingEventIdx
	}
	if c.opts.Indirect {
		take |= vhostuser.RingIndirect
	}
	if c.opts.Control {
		take |= vhostuser.NetCtrlVQ
	}
	return take &^ c.opts.Refuse
}

// Region is a piece of the card's memory file: both addresses go with the
// offset.
type Region struct{ Offset, Size uint64 }

func (r Region) payload() []byte {
	return U64(GuestBase+r.Offset, r.Size, UserBase+r.Offset, r.Offset)
}

// SetMemory passes the whole memory, or the given pieces of it, to the back end.
func (c *Card) SetMemory(pieces ...Region) error {
	size := uint64(len(c.memory.b))
	if len(pieces) == 0 {
		pieces = []Region{{0, size}}
		if c.opts.Split {
			// Within the buffers of the first ring, not at the start of a page.
			cut := c.rings[0].at.buffers + uint64(c.rings[0].at.stride)/2
			cut &^= 7
			pieces = []Region{{0, cut}, {cut, size - cut}}
		}
	}
	b := U32(uint32(len(pieces)), 0)
	var files []*os.File
	for _, p := range pieces {
		b = append(b, p.payload()...)
		files = append(files, c.memory.file)
	}
	return c.Front.Do(vhostuser.SetMemTable, b, files...)
}

// AddMemory and RemoveMemory change the table by one slot.
func (c *Card) AddMemory(r Region) error {
	return c.Front.Do(vhostuser.AddMemReg, append(U64(0), r.payload()...), c.memory.file)
}

// RemoveMemory removes one slot from the table.
func (c *Card) RemoveMemory(r Region) error {
	return c.Front.Do(vhostuser.RemMemReg, append(U64(0), r.payload()...))
}

// Start passes ring i (2n receives, 2n+1 sends) to the back end and starts it
// at an index.
func (c *Card) Start(i int, base uint16) error { return c.start(i, base, UserBase) }

// StartAt is Start with every address of the ring wrong by some bytes.
func (c *Card) StartAt(i int, off uint64) error { return c.start(i, c.opts.Base, UserBase+off) }

func (c *Card) start(i int, base uint16, user uint64) error {
	r, f := c.rings[i], c.Front
	n := uint32(i)
	addr := append(U32(n, 0), U64(user+r.at.desc, user+r.at.used, user+r.at.avail, 0)...)
	for _, m := range []struct {
		r     vhostuser.Request
		b     []byte
		files []*os.File
	}{
		{vhostuser.SetVringNum, U32(n, uint32(r.size)), nil},
		{vhostuser.SetVringBase, U32(n, uint32(base)), nil},
		{vhostuser.SetVringAddr, addr, nil},
		{vhostuser.SetVringCall, U64(uint64(i)), []*os.File{r.callEnd}},
		{vhostuser.SetVringErr, U64(uint64(i)), []*os.File{r.err}},
		{vhostuser.SetVringKick, U64(uint64(i)), []*os.File{r.kick}},
	} {
		if err := f.Do(m.r, m.b, m.files...); err != nil {
			return fmt.Errorf("ring %d: %w", i, err)
		}
	}
	return nil
}

// Stop stops ring i and returns the next index, as the back end reports it.
func (c *Card) Stop(i int) (uint16, error) {
	b, err := c.Front.Ask(vhostuser.GetVringBase, U32(uint32(i), 0))
	if err != nil {
		return 0, err
	}
	if len(b) != 8 || binary.NativeEndian.Uint32(b) != uint32(i) {
		return 0, fmt.Errorf("%w: reply % x to GET_VRING_BASE of ring %d", ErrDevice, b, i)
	}
	return uint16(binary.NativeEndian.Uint32(b[4:])), nil
}

// Enable enables or disables ring i.
func (c *Card) Enable(i int, on bool) error {
	v := uint32(0)
	if on {
		v = 1
	}
	return c.Front.Do(vhostuser.SetVringEnable, U32(uint32(i), v))
}

// Config reads n bytes of the device's configuration space.
func (c *Card) Config(offset, n int) ([]byte, error) {
	b, err := c.Front.Ask(vhostuser.GetConfig, append(U32(uint32(offset), uint32(n), 0), make([]byte, n)...))
	if err != nil || len(b) != 12+n {
		return nil, fmt.Errorf("GET_CONFIG: %d bytes: %w", len(b), err)
	}
	return b[12:], nil
}

// Restart empties a stopped ring and starts it again.
func (c *Card) Restart(i int) error {
	r := c.rings[i]
	r.reset(c.opts.Base)
	if err := c.Start(i, r.next); err != nil {
		return err
	}
	if err := c.Enable(i, true); err != nil {
		return err
	}
	if r.at.receive {
		r.post()
	}
	return nil
}
