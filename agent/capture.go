package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"connectrpc.com/connect"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// Bounds of captures. The kernel holds captureBuffer bytes for each, and drops and counts what
// does not fit; the agent holds one batch and one frame.
const (
	maxCaptures   = 2
	captureBuffer = 2 << 20
	maxFrame      = 1<<16 + 64
	batchPackets  = 128
	batchBytes    = 256 << 10
)

// Capture sends the frames of an interface. Its memory is bounded whatever the reader does: Send
// blocks while the host does not read.
func (r rpc) Capture(ctx context.Context, q *cardpb.CaptureRequest, out *connect.ServerStream[cardpb.CaptureBatch]) error {
	select {
	case r.a.captures <- struct{}{}:
		defer func() { <-r.a.captures }()
	default:
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d captures are running, which is the most", maxCaptures))
	}
	name, link, err := captured(r.a.config(), q.Interface)
	if err != nil {
		return connect.NewError(connect.CodeNotFound, err)
	}
	c, err := newCapture(name, q.Snap, link)
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	defer context.AfterFunc(ctx, c.end)()
	defer context.AfterFunc(r.a.run, c.end)()
	defer c.end()
	r.a.log.Sayf("capture: %s begins", name)
	defer r.a.log.Sayf("capture: %s ends", name)
	for batch := (&cardpb.CaptureBatch{Interface: name}); ; {
		if err := out.Send(batch); err != nil {
			return err
		}
		batch, err = c.read()
		if ctx.Err() != nil || r.a.run.Err() != nil {
			return nil
		}
		if err != nil {
			return connect.NewError(connect.CodeUnavailable, err)
		}
	}
}

// captured finds the interface that a request names, and whether it is a link. A port may be
// called link.
func captured(c *control.Config, name string) (found string, link bool, err error) {
	var known []string
	for _, p := range c.Ports {
		if p.Name == name || name == "" {
			return p.Name, false, nil
		}
		known = append(known, p.Name)
	}
	for _, l := range c.Links {
		if l.Name == name || name == "" || name == "link" {
			return l.Name, true, nil
		}
		known = append(known, l.Name)
	}
	return "", false, fmt.Errorf("port %.40q: the card has no such interface, want one of link, %s", name, strings.Join(known, ", "))
}

// capture is a packet socket (packet(7)).
type capture struct {
	file              *os.File
	conn              syscall.RawConn
	frame             []byte
	received, dropped uint64
}

func newCapture(name string, snap uint32, link bool) (*capture, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", name, err)
	}
	fail := func(call string, err error) (*capture, error) {
		return nil, fmt.Errorf("capture on %s: %s: %w", name, call, err)
	}
	// Protocol 0 receives nothing until bind, which comes after the filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail("socket", err)
	}
	file := os.NewFile(uintptr(fd), "capture")
	err = errors.Join(
		attachFilter(fd, snap, link),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	if err != nil {
		file.Close()
		return fail("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: dev.Index}); err != nil {
		file.Close()
		return fail("bind", err)
	}
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return fail("poll", err)
	}
	return &capture{file: file, conn: conn, frame: make([]byte, maxFrame)}, nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

func (c *capture) end() { _ = c.file.Close() }

// attachFilter has the kernel keep snap bytes of each frame, and on a link none of the control API,
// whose connection carries the capture itself.
func attachFilter(fd int, snap uint32, link bool) error {
	if snap == 0 || snap > maxFrame {
		snap = maxFrame
	}
	raw, err := bpf.Assemble(captureFilter(snap, link))
	if err != nil {
		return err
	}
	f := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		f[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(f)), Filter: unsafe.SliceData(f)})
}

// captureFilter is classic BPF. Offsets are of an Ethernet frame of 14 bytes with IPv4 (RFC 791) or
// IPv6 (RFC 8200) and TCP (RFC 9293); of IPv6 only packets without extension headers are looked at.
func captureFilter(snap uint32, link bool) []bpf.Instruction {
	keep := bpf.RetConstant{Val: snap}
	if !link {
		return []bpf.Instruction{keep}
	}
	const port = control.APIPort
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 9},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 15},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 13}, // a later fragment
		bpf.LoadMemShift{Off: 14},
		bpf.LoadIndirect{Off: 14, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 9},
		bpf.LoadIndirect{Off: 16, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 7, SkipFalse: 8},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 7},
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 54, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 2},
		bpf.LoadAbsolute{Off: 56, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: port, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		keep,
	}
}

// read waits for frames and returns those that are there, up to a batch.
func (c *capture) read() (*cardpb.CaptureBatch, error) {
	batch := &cardpb.CaptureBatch{}
	var failed error
	size := 0
	err := c.conn.Read(func(fd uintptr) bool {
		for len(batch.Packets) < batchPackets && size < batchBytes {
			p, err := c.receive(int(fd))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.EAGAIN) {
				return len(batch.Packets) > 0
			}
			if err != nil {
				failed = err
				return true
			}
			batch.Packets = append(batch.Packets, p)
			size += len(p.Frame)
		}
		return true
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	err = c.count(batch)
	return batch, err
}

// count adds the kernel's counters, which begin again at each reading.
func (c *capture) count(batch *cardpb.CaptureBatch) error {
	return errors.Join(c.conn.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.received += uint64(s.Packets)
			c.dropped += uint64(s.Drops)
		}
		batch.Received, batch.Dropped = c.received, c.dropped
	}))
}

func (c *capture) receive(fd int) (*cardpb.CapturedPacket, error) {
	var oob [256]byte
	n, oobn, _, from, err := unix.Recvmsg(fd, c.frame, oob[:], 0)
	if err != nil {
		return nil, err
	}
	p := &cardpb.CapturedPacket{TimeUnixNano: time.Now().UnixNano(), Length: uint32(n)}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	frame := c.frame[:n]
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			p.TimeUnixNano = (*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(m.Data))).Nano()
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA:
			p.Length, frame = auxiliary(m.Data, p.Length, frame)
		}
	}
	p.Frame = slices.Clone(frame)
	return p, nil
}

// auxiliary takes the length before the filter's cut, and the VLAN tag that the kernel took out of
// the frame, from a struct tpacket_auxdata (linux/if_packet.h):
//
//	 0  status 4, length 4, kept 4
//	12  mac 2, net 2, VLAN's TCI 2, VLAN's type 2
func auxiliary(aux []byte, length uint32, frame []byte) (uint32, []byte) {
	const macs = 12
	if len(aux) < 20 {
		return length, frame
	}
	length = max(length, binary.NativeEndian.Uint32(aux[4:]))
	status := binary.NativeEndian.Uint32(aux)
	if status&unix.TP_STATUS_VLAN_VALID == 0 || len(frame) < macs {
		return length, frame
	}
	kind := uint16(unix.ETH_P_8021Q)
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		kind = binary.NativeEndian.Uint16(aux[18:])
	}
	tag := binary.BigEndian.AppendUint16(nil, kind)
	tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(aux[16:]))
	return length + uint32(len(tag)), slices.Concat(frame[:macs], tag, frame[macs:])
}
