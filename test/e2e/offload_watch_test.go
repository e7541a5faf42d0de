package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watch checks every packet that passes an interface: its checksums, sizes and fragments.
type watch struct {
	fd       int
	ethernet bool // packets begin with an Ethernet header
	stop     chan struct{}
	ended    sync.WaitGroup
	seen     sight
	pieces   map[uint32][]byte // of IPv4 datagrams, by identification
}

// sight is the result of a watch.
type sight struct {
	packets, bad int
	badOut       int // of bad, those that leave through the interface
	badExample   string
	tcpPayload   int // the largest, in bytes
	segmentSize  int // the largest MSS option
	opens        int // SYN without ACK
	sackIn       int // SYN that come in and permit SACK
	fragments    int
	whole        int      // datagrams reassembled from fragments, with a correct checksum
	in, out      checksum // TCP with payload, by direction
	lost         uint32   // packets that the watch missed
	bytes        int64
}

// checksum counts segments by the state of their checksum (packet(7), auxdata). largest is the
// largest payload in bytes.
type checksum struct{ notComputed, valid, unknown, largest int }

// watchOn starts a watch. The result of end is complete but for what was lost.
func watchOn(t *testing.T, netns, iface string, ethernet bool) *watch {
	t.Helper()
	w := &watch{fd: -1, ethernet: ethernet, stop: make(chan struct{}), pieces: map[uint32][]byte{}}
	err := inNetns(netns, func() (err error) { w.fd, err = packetSocket(iface); return err })
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.ended.Go(w.run)
	t.Cleanup(func() { w.end() })
	return w
}

// end stops after the packets that are queued already.
func (w *watch) end() sight {
	select {
	case <-w.stop:
		return w.seen
	default:
	}
	close(w.stop)
	w.ended.Wait()
	if s, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		w.seen.lost = s.Drops
	}
	unix.Close(w.fd)
	return w.seen
}

func (w *watch) run() {
	buf, oob := make([]byte, 1<<17), make([]byte, 128)
	for {
		n, k, _, from, err := unix.Recvmsg(w.fd, buf, oob, 0)
		if err != nil {
			select {
			case <-w.stop:
				return
			default:
			}
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		b := buf[:n]
		if w.ethernet {
			b = b[min(14, n):]
		}
		w.packet(b, ll.Pkttype == unix.PACKET_OUTGOING, auxStatus(oob[:k]))
	}
}

// auxStatus is tp_status of struct tpacket_auxdata.
func auxStatus(oob []byte) uint32 {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	return 0
}

func (w *watch) packet(b []byte, out bool, status uint32) {
	if before := w.seen.bad; out {
		defer func() { w.seen.badOut += w.seen.bad - before }()
	}
	w.seen.packets++
	w.seen.bytes += int64(len(b))
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		w.ip4(b[:min(len(b), max(20, int(binary.BigEndian.Uint16(b[2:]))))], out, status)
	case len(b) >= 40 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_TCP:
		pseudo := fold(addUp(0, b[8:40]) + uint64(len(b)-40) + unix.IPPROTO_TCP)
		w.tcp(b[40:], pseudo, out, status)
	}
}

func (w *watch) ip4(b []byte, out bool, status uint32) {
	head := int(b[0]&15) * 4
	if head < 20 || head > len(b) || fold(addUp(0, b[:head])) != 0xffff {
		w.wrong("IPv4 header", b)
		return
	}
	body := b[head:]
	if at := binary.BigEndian.Uint16(b[6:]); at&0x3fff != 0 {
		w.seen.fragments++
		if body = w.assemble(b, body, at); body == nil {
			return
		}
	}
	pseudo := fold(addUp(0, b[12:20]) + uint64(len(body)) + uint64(b[9]))
	switch b[9] {
	case unix.IPPROTO_TCP:
		w.tcp(body, pseudo, out, status)
	case unix.IPPROTO_UDP:
		if len(body) < 8 || binary.BigEndian.Uint16(body[6:]) == 0 {
			return // no checksum
		}
		if status&unix.TP_STATUS_CSUMNOTREADY == 0 && fold(addUp(uint64(pseudo), body)) != 0xffff {
			w.wrong("UDP", body)
		} else if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			w.seen.whole++
		}
	}
}

// assemble returns the body of a datagram that is complete with this fragment.
func (w *watch) assemble(b, body []byte, at uint16) []byte {
	id := uint32(binary.BigEndian.Uint16(b[4:])) | uint32(b[15])<<16 // and the end of its source
	offset := int(at&0x1fff) * 8
	if w.pieces[id] == nil {
		w.pieces[id] = make([]byte, 0, 65535)
	}
	whole := w.pieces[id]
	if end := offset + len(body); end > len(whole) {
		whole = whole[:end]
	}
	copy(whole[offset:], body)
	w.pieces[id] = whole
	// Fragments of one datagram arrive in order on a wire with a single path.
	if at&0x2000 != 0 {
		return nil
	}
	delete(w.pieces, id)
	return whole
}

func (w *watch) tcp(b []byte, pseudo uint16, out bool, status uint32) {
	if len(b) < 20 {
		w.wrong("TCP header", b)
		return
	}
	head := min(int(b[12]>>4)*4, len(b))
	if b[13]&0x12 == 2 {
		w.seen.opens++
	}
	if b[13]&2 != 0 { // SYN
		if v := tcpOption(b[20:head], optionMSS); len(v) == 2 {
			w.seen.segmentSize = max(w.seen.segmentSize, int(binary.BigEndian.Uint16(v)))
		}
		if !out && tcpOption(b[20:head], optionSACK) != nil {
			w.seen.sackIn++
		}
	}
	payload := len(b) - head
	w.seen.tcpPayload = max(w.seen.tcpPayload, payload)
	c := &w.seen.in
	if out {
		c = &w.seen.out
	}
	c.largest = max(c.largest, payload)
	switch {
	case status&unix.TP_STATUS_CSUMNOTREADY != 0:
		if payload > 0 {
			c.notComputed++
		}
		// The field holds the sum of the pseudo header, for the device that completes it.
		if binary.BigEndian.Uint16(b[16:]) != pseudo {
			w.wrong("TCP, not computed, pseudo header", b)
		}
		return
	case payload == 0:
	case status&unix.TP_STATUS_CSUM_VALID != 0:
		c.valid++
	default:
		c.unknown++
	}
	if fold(addUp(uint64(pseudo), b)) != 0xffff {
		w.wrong("TCP", b)
	}
}

func (w *watch) wrong(what string, b []byte) {
	w.seen.bad++
	if w.seen.badExample == "" {
		w.seen.badExample = fmt.Sprintf("%s: % x", what, b[:min(len(b), 64)])
	}
}

// Kinds of TCP options.
const (
	optionMSS  = 2 // RFC 9293, section 3.2
	optionSACK = 4 // SACK-permitted, RFC 2018, section 2
)

// tcpOption is the value of an option, or nil.
func tcpOption(b []byte, kind byte) []byte {
	for len(b) > 1 && b[0] != 0 {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		size := max(2, int(b[1]))
		if size > len(b) {
			return nil
		}
		if b[0] == kind {
			return b[2:size:size]
		}
		b = b[size:]
	}
	return nil
}

// addUp is the sum of RFC 1071 before it is folded.
func addUp(sum uint64, b []byte) uint64 {
	for len(b) >= 4 {
		sum += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// settle waits until the watch has seen the packets in flight.
func (w *watch) settle() { time.Sleep(100 * time.Millisecond) }
