package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vhostuser"
)

// frontEnd speaks the front end's side of vhost-user (QEMU
// docs/interop/vhost-user.rst) with a back end under test: as much of it as a
// polling driver needs.
type frontEnd struct{ conn *net.UnixConn }

// A message is request, flags and size, 4 bytes each, and a payload.
func (f frontEnd) send(r vhostuser.Request, payload []byte, fds ...int) error {
	b := make([]byte, 0, 12+len(payload))
	for _, v := range []uint32{uint32(r), 1, uint32(len(payload))} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := f.conn.WriteMsgUnix(append(b, payload...), oob, nil)
	if err != nil {
		return fmt.Errorf("vhost-user request %d: %w", r, err)
	}
	return nil
}

// ask sends a request whose reply is one number, with payload behind it or
// one of the same length.
func (f frontEnd) ask(r vhostuser.Request, payload []byte) (uint64, error) {
	if err := f.send(r, payload); err != nil {
		return 0, err
	}
	if err := f.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	var b [20]byte
	if _, err := io.ReadFull(f.conn, b[:]); err != nil {
		return 0, fmt.Errorf("reply to vhost-user request %d: %w", r, err)
	}
	return binary.NativeEndian.Uint64(b[12:]), nil
}

func words(v ...uint64) []byte {
	var b []byte
	for _, w := range v {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

// pair is the payload of the requests that name a ring and a number.
func pair(ring int, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(ring)), v)
}

// negotiate takes every feature that the back end offers.
func (f frontEnd) negotiate() error {
	features, err := f.ask(vhostuser.GetFeatures, nil)
	if err != nil {
		return err
	}
	protocol, err := f.ask(vhostuser.GetProtocolFeatures, nil)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		r vhostuser.Request
		v []byte
	}{
		{vhostuser.SetOwner, nil},
		{vhostuser.SetProtocolFeatures, words(protocol)},
		{vhostuser.SetFeatures, words(features)},
	} {
		if err := f.send(s.r, s.v); err != nil {
			return err
		}
	}
	return nil
}

// share gives the back end size bytes of the file memfd, mapped here at user.
func (f frontEnd) share(memfd int, user, size uint64) error {
	return f.send(vhostuser.SetMemTable, words(1, 0, size, user, 0), memfd)
}

// start hands ring i over.
func (f frontEnd) start(i int, r *driverRing) error {
	base := r.base
	for _, s := range []struct {
		r   vhostuser.Request
		v   []byte
		fds []int
	}{
		{vhostuser.SetVringNum, pair(i, ringSize), nil},
		{vhostuser.SetVringBase, pair(i, 0), nil},
		{vhostuser.SetVringAddr, append(pair(i, 0), words(base, base+usedAt, base+availAt, 0)...), nil},
		{vhostuser.SetVringCall, words(uint64(i)), []int{r.call}},
		{vhostuser.SetVringKick, words(uint64(i)), []int{r.kick}},
		{vhostuser.SetVringEnable, pair(i, 1), nil},
	} {
		if err := f.send(s.r, s.v, s.fds...); err != nil {
			return err
		}
	}
	return nil
}
