// Package vhostuser is the back end's side of the vhost-user conversation
// (QEMU docs/interop/vhost-user.rst) for a virtio device: a network device or a
// disk. It handles the protocol. A Device works on the rings.
package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
)

// A message:
//
//	0          4          8          12
//	+----------+----------+----------+------------ - -
//	| request  | flags    | size     | payload (size bytes)
//	+----------+----------+----------+------------ - -
//
// in the host's byte order, with up to 8 descriptors beside the first byte.
const (
	headerLen  = 12
	maxPayload = 4096 // the largest known is the configuration space, 268
	maxFiles   = 8    // VHOST_MEMORY_BASELINE_NREGIONS

	flagVersion   = 0x1
	flagVersionIs = 0x3
	flagReply     = 0x4
	flagNeedReply = 0x8
)

// Request is the kind of a front end's message.
type Request uint32

// The requests that this back end knows.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	SendRARP            Request = 19
	NetSetMTU           Request = 20
	SetBackendReqFD     Request = 21
	GetConfig           Request = 24
	SetConfig           Request = 25
	ResetDevice         Request = 34
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	SetStatus           Request = 39
	GetStatus           Request = 40
)

// ErrMessage reports that a message breaks the protocol. It ends the conversation.
var ErrMessage = errors.New("malformed vhost-user message")

// message is one message with the descriptors that came with it.
type message struct {
	request Request
	flags   uint32
	payload []byte
	files   []*os.File
}

// closeFiles closes the descriptors that no handler took (CVE-2019-14818,
// CVE-2022-0669).
func (m *message) closeFiles() {
	for _, f := range m.files {
		f.Close()
	}
	m.files = nil
}

// take moves the first descriptor to the caller. It returns nil if there is none.
func (m *message) take() *os.File {
	if len(m.files) == 0 {
		return nil
	}
	f := m.files[0]
	m.files = m.files[1:]
	return f
}

// patience is how long the rest of a message may take to arrive, and an answer to
// be fetched. A front end may stay silent between messages without limit. But one
// that stalls within a message keeps other front ends from being served.
const patience = 10 * time.Second

// receive reads one message into buf's memory, which is maxPayload long.
func receive(c *net.UnixConn, buf []byte, patience time.Duration) (*message, error) {
	var head [headerLen]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	c.SetReadDeadline(time.Time{})
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], oob)
	c.SetReadDeadline(time.Now().Add(patience))
	m := &message{}
	if oobn > 0 {
		m.files, err = files(oob[:oobn], err)
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("%w: more than %d descriptors", ErrMessage, maxFiles)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && n < headerLen {
		_, err = io.ReadFull(c, head[n:])
	}
	if err == nil {
		err = m.decode(head[:], buf, c)
	}
	if n > 0 && errors.Is(err, io.EOF) {
		// A connection may end only between two messages.
		err = fmt.Errorf("%w: it ends within a message", ErrMessage)
	}
	if err != nil {
		m.closeFiles()
		return nil, err
	}
	return m, nil
}

// decode decodes the header and reads the payload.
func (m *message) decode(head, buf []byte, r io.Reader) error {
	m.request = Request(binary.NativeEndian.Uint32(head))
	m.flags = binary.NativeEndian.Uint32(head[4:])
	size := binary.NativeEndian.Uint32(head[8:])
	if m.flags&flagVersionIs != flagVersion || m.flags&flagReply != 0 {
		return fmt.Errorf("%w: request %d with flags %#x", ErrMessage, m.request, m.flags)
	}
	if size > maxPayload || int(size) > len(buf) {
		return fmt.Errorf("%w: request %d of %d bytes, want at most %d", ErrMessage, m.request, size, maxPayload)
	}
	m.payload = buf[:size]
	if _, err := io.ReadFull(r, m.payload); err != nil {
		return fmt.Errorf("request %d: payload of %d bytes: %w", m.request, size, err)
	}
	return nil
}

// files makes files of the descriptors in ancillary data, also when the read
// failed, so that they can be closed.
func files(oob []byte, err error) ([]*os.File, error) {
	var out []*os.File
	passed, perr := fds.Rights(oob)
	if perr != nil && err == nil {
		err = fmt.Errorf("%w: ancillary data: %w", ErrMessage, perr)
	}
	for _, fd := range passed {
		unix.CloseOnExec(fd)
		f, ferr := unpolled(fd)
		if ferr != nil {
			if err == nil {
				err = ferr
			}
			continue
		}
		out = append(out, f)
	}
	return out, err
}

// unpolled makes a file of a descriptor that Go's poller does not watch. os.NewFile has the poller
// watch a non-blocking descriptor, such as QEMU's eventfds, and each kick and each call would wake
// this process. So unpolled makes the file of a blocking placeholder and replaces that with the
// descriptor. It closes the descriptor on an error.
func unpolled(fd int) (*os.File, error) {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK == 0 {
		return os.NewFile(uintptr(fd), "vhost-user"), nil
	}
	defer unix.Close(fd)
	place, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	f := os.NewFile(uintptr(place), "vhost-user")
	if err := unix.Dup3(fd, place, unix.O_CLOEXEC); err != nil {
		f.Close()
		return nil, fmt.Errorf("dup3 of a descriptor of the front end: %w", err)
	}
	return f, nil
}

// reply sends an answer to a request.
func reply(c *net.UnixConn, request Request, payload []byte) error {
	b := make([]byte, headerLen, headerLen+len(payload))
	binary.NativeEndian.PutUint32(b, uint32(request))
	binary.NativeEndian.PutUint32(b[4:], flagVersion|flagReply)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(payload)))
	_, err := c.Write(append(b, payload...))
	return err
}

func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

func u32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}
