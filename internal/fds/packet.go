// Package fds passes descriptors between toe's own processes, and keeps back those
// that are not passed.
package fds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ErrPacket reports a packet that cannot be decoded. The next one may be valid.
var ErrPacket = errors.New("bad packet")

// Receiver is a SOCK_SEQPACKET socket that packets come in on: a Socket, or a
// *net.UnixConn.
type Receiver interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error)
}

// Socket is the descriptor of one that blocks.
type Socket int

// ReadMsgUnix is recvmsg(2).
func (s Socket) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(int(s), b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, flags, nil, err
		}
	}
}

// Send sends v as JSON in one packet, with files beside it, which stay the
// caller's.
func (s Socket) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	for {
		err = unix.Sendmsg(int(s), b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sendmsg of %d bytes with %d descriptors: %w", len(b), len(files), err)
	}
	return nil
}

// Receive takes in one packet of at most so many bytes, with at most so many
// descriptors, which are the caller's, and are marked close-on-exec. The error is
// io.EOF when the other side is gone, ErrPacket for what cannot be read; no
// descriptor is left open then.
func Receive(from Receiver, v any, bytes, descriptors int) ([]int, error) {
	b, oob := make([]byte, bytes), make([]byte, unix.CmsgSpace(4*descriptors))
	n, oobn, flags, _, err := from.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		beside, _ := Rights(oob[:max(oobn, 0)]) // an empty packet may have some
		Close(beside)
		return nil, err
	}
	got, err := Rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("more than %d bytes or %d descriptors", bytes, descriptors)
	}
	if err == nil {
		err = json.Unmarshal(b[:n], v)
	}
	if err != nil {
		Close(got)
		return nil, fmt.Errorf("%w: %w", ErrPacket, err)
	}
	return got, nil
}

// Rights returns the descriptors in ancillary data. They are the caller's, also those that come with an
// error.
func Rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			out = append(out, fds...)
		}
	}
	return out, nil
}

// Close closes the descriptors that are not -1, which is what a taker leaves in their place.
func Close(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
