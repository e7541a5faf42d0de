package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Region is one piece of the card's memory as the front end describes it.
// All numbers are bytes.
type Region struct {
	Guest, User, Size, Offset uint64
	File                      *os.File `json:"-"` // owned by the session; valid until it is taken out of the table
	again                     int      // how often it was added again
}

// Ring is a ring that can start: its addresses and its notifiers.
type Ring struct {
	Size              int
	Desc, Avail, Used uint64 // addresses in the front end's process
	Base              uint16
	Kick, Call, Err   *os.File `json:"-"` // Call and Err may be nil; owned by the session
	Enabled           bool
}

// Device works on the rings. The session calls it from one goroutine. The
// arguments of a call stay valid until a later call replaces them.
type Device interface {
	// Features are the virtio feature bits that the device offers.
	Features() uint64
	// Shape is its type and the number of its rings.
	Shape() Shape
	// Config is the device's configuration space, virtio 1.2 sections 5.1.4 and 5.2.4.
	Config() []byte
	// SetMTU refuses an MTU that the device does not support.
	SetMTU(mtu uint64) error
	// SetFeatures sets the features that the driver accepted. Every ring is stopped.
	SetFeatures(features uint64) error
	// SetMemory replaces the memory table, also while rings run.
	SetMemory(table []Region) error
	// StartRing starts ring i, or updates the descriptors of a running one.
	// From the card's side ring 2n of a network device receives and 2n+1 transmits.
	// With several pairs the last ring is for control.
	StartRing(i int, r Ring) error
	// StopRing stops ring i and returns the next avail index to take. The
	// device does not access the ring's memory after StopRing has returned.
	StopRing(i int) (base uint16, err error)
	// EnableRing switches a started ring's traffic on or off.
	EnableRing(i int, on bool) error
	// Reset stops every ring and forgets memory and features.
	Reset()
}

// Serve serves one front end until it hangs up (nil) or breaks the protocol. It
// closes every descriptor that the front end passed and leaves the device reset.
// The caller keeps ownership of the connection.
func Serve(c *net.UnixConn, dev Device) error { return serve(c, dev, patience) }

func serve(c *net.UnixConn, dev Device, patience time.Duration) error {
	s := &session{conn: c, dev: dev, patience: patience, shape: dev.Shape()}
	s.rings = make([]ring, s.shape.rings)
	defer s.end()
	buf := make([]byte, maxPayload)
	for {
		m, err := receive(c, buf, patience)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		err = s.answer(m)
		m.closeFiles()
		if err != nil {
			return err
		}
	}
}

// ring is the state of one ring as the front end has set it.
type ring struct {
	Ring
	placed  bool // SET_VRING_ADDR was received
	started bool
}

type session struct {
	conn     *net.UnixConn
	patience time.Duration // with a message or an answer in progress
	dev      Device
	shape    Shape
	features uint64
	protocol uint64
	status   byte
	table    []Region
	rings    []ring
}

// end resets the device and closes every descriptor of the front end.
func (s *session) end() {
	s.dev.Reset()
	for i := range s.rings {
		s.rings[i].close()
	}
	for _, r := range s.table {
		r.File.Close()
	}
}

func (r *ring) close() {
	for _, f := range []**os.File{&r.Kick, &r.Call, &r.Err} {
		replace(f, nil)
	}
}

// replace closes the old file, if any, and stores the new one.
func replace(old **os.File, f *os.File) {
	closeFile(*old)
	*old = f
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// answer executes one message and sends the reply, if there is one: the value that
// the request reads, or 0 or 1 if the front end wants an acknowledgement. A request
// that fails and has no reply ends the conversation, since front end and back end
// no longer agree.
func (s *session) answer(m *message) error {
	value, err := s.do(m)
	if errors.Is(err, ErrMessage) {
		return err
	}
	if value != nil {
		return s.reply(m.request, value)
	}
	if m.flags&flagNeedReply != 0 && s.protocol&protoReplyAck != 0 {
		code := uint64(0)
		if err != nil {
			code = 1
		}
		return s.reply(m.request, u64(code))
	}
	if errors.Is(err, errUnknown) {
		return nil
	}
	return err
}

func (s *session) reply(request Request, payload []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(s.patience))
	return reply(s.conn, request, payload)
}

var errUnknown = errors.New("unknown vhost-user request")

// do executes one message and returns the payload of its reply, nil for none.
func (s *session) do(m *message) ([]byte, error) {
	switch m.request {
	case GetFeatures:
		return u64(s.dev.Features() | ProtocolFeature), nil
	case GetProtocolFeatures:
		return u64(s.shape.protocol), nil
	case GetQueueNum:
		return u64(s.shape.queueNum(s.protocol)), nil
	case GetMaxMemSlots:
		return u64(maxMemSlots), nil
	case GetStatus:
		return u64(uint64(s.status)), nil
	case GetConfig:
		return s.getConfig(m)
	case GetVringBase:
		return s.getVringBase(m)
	case SetOwner, SendRARP, SetConfig:
		// No effect: one front end owns the device, no switch needs
		// the address, and the configuration space is read-only.
		return nil, nil
	case ResetOwner, ResetDevice:
		return nil, s.reset()
	case SetMemTable:
		return nil, s.setMemTable(m)
	case AddMemReg:
		return nil, s.addMemReg(m)
	case RemMemReg:
		return nil, s.remMemReg(m)
	case SetVringNum, SetVringBase, SetVringEnable:
		return nil, s.setVringState(m)
	case SetVringAddr:
		return nil, s.setVringAddr(m)
	case SetVringKick, SetVringCall, SetVringErr:
		return nil, s.setVringFile(m)
	}
	return nil, s.setValue(m)
}

// setValue executes the requests whose payload is one number.
func (s *session) setValue(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	switch m.request {
	case SetFeatures:
		return s.setFeatures(v)
	case SetProtocolFeatures:
		if have := s.shape.protocol; v&^have != 0 {
			return fmt.Errorf("%w: protocol features %#x, offered %#x", ErrMessage, v, have)
		}
		s.protocol = v
		return nil
	case SetStatus:
		s.status = byte(v)
		if s.status == 0 {
			return s.reset()
		}
		return nil
	case NetSetMTU:
		return s.dev.SetMTU(v)
	}
	return fmt.Errorf("%w: %d", errUnknown, m.request)
}

func (s *session) setFeatures(v uint64) error {
	if offered := s.dev.Features() | ProtocolFeature; v&^offered != 0 {
		return fmt.Errorf("%w: features %#x, offered %#x", ErrMessage, v, offered)
	}
	// Front ends repeat this request while rings run, with a bit for logging
	// or the same bits. Only a change stops rings.
	if v == s.features {
		return nil
	}
	for i := range s.rings {
		if err := s.stop(i); err != nil {
			return err
		}
	}
	if err := s.dev.SetFeatures(v); err != nil {
		return err
	}
	s.features = v
	return nil
}

// reset stops every ring and keeps the memory, which the front end has not taken
// back (RESET_DEVICE, and status 0 written by the driver).
func (s *session) reset() error {
	for i := range s.rings {
		if err := s.stop(i); err != nil {
			return err
		}
		s.rings[i].Enabled = false
		s.rings[i].Base = 0
	}
	return nil
}

// u64 returns the payload of a message that is one number.
func (m *message) u64() (uint64, error) {
	if len(m.payload) < 8 {
		return 0, fmt.Errorf("%w: request %d of %d bytes, want 8", ErrMessage, m.request, len(m.payload))
	}
	return binary.NativeEndian.Uint64(m.payload), nil
}

// getConfig serves a window of the configuration space:
//
//	0        4        8        12
//	+--------+--------+--------+-------- - -
//	| offset | size   | flags  | size bytes
//	+--------+--------+--------+-------- - -
func (s *session) getConfig(m *message) ([]byte, error) {
	if len(m.payload) < 12 {
		return nil, fmt.Errorf("%w: GET_CONFIG of %d bytes", ErrMessage, len(m.payload))
	}
	offset := binary.NativeEndian.Uint32(m.payload)
	size := binary.NativeEndian.Uint32(m.payload[4:])
	if uint64(size) != uint64(len(m.payload)-12) || offset > 256 || size > 256 {
		return nil, fmt.Errorf("%w: GET_CONFIG of %d bytes at %d in %d", ErrMessage, size, offset, len(m.payload))
	}
	out := append(u32s(offset, size, 0), make([]byte, size)...)
	if config := s.dev.Config(); int(offset) < len(config) {
		copy(out[12:], config[offset:])
	}
	return out, nil
}
