package nfqueue

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// Kinds, attributes and values of linux/netfilter/nfnetlink_queue.h.
const (
	kindPacket  = unix.NFNL_SUBSYS_QUEUE << 8
	kindVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	kindConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	attrPacketHeader  = 1
	attrVerdictHeader = 2
	attrMark          = 3
	attrPayload       = 10

	attrConfigCommand = 1
	attrConfigParams  = 2
	attrConfigLength  = 3

	commandBind = 1
	copyPacket  = 2

	verdictDrop   = 0
	verdictAccept = 1

	messageHead = 16 + 4
)

// appendMessage appends a message, in the CPU's byte order unless noted:
//
//	 0       4     6      8       12      16 17 18         20
//	┌───────┬─────┬──────┬───────┬───────┬──┬──┬──────────┬────────────
//	│length │type │flags │ seq   │ pid   │AF│0 │queue, BE │attributes…
//	└───────┴─────┴──────┴───────┴───────┴──┴──┴──────────┴────────────
func appendMessage(b []byte, kind, flags uint16, seq uint32, queue uint16, attributes ...[]byte) []byte {
	at := len(b)
	b = append(b, make([]byte, messageHead)...)
	for _, a := range attributes {
		b = append(b, a...)
	}
	h := b[at:]
	binary.NativeEndian.PutUint32(h[0:], uint32(len(h)))
	binary.NativeEndian.PutUint16(h[4:], kind)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(h[8:], seq)
	binary.BigEndian.PutUint16(h[18:], queue)
	return b
}

// attribute is one attribute of a message:
//
//	 0       2     4
//	┌───────┬─────┬──────────────────────────┐
//	│length │type │payload, padded to 4 bytes│
//	└───────┴─────┴──────────────────────────┘
func attribute(kind uint16, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

// parse parses messages one by one and stops at the first incomplete one.
func (q *Queue) parse(b []byte) {
	for len(b) >= messageHead {
		length := binary.NativeEndian.Uint32(b)
		if length < messageHead || uint64(length) > uint64(len(b)) {
			return
		}
		if binary.NativeEndian.Uint16(b[4:]) == kindPacket {
			if p, ok := parsePacket(b[messageHead:length]); ok {
				q.held(p)
			}
		}
		b = b[min((uint64(length)+3)&^3, uint64(len(b))):]
	}
}

func parsePacket(b []byte) (p Packet, ok bool) {
	for len(b) >= 4 {
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			return p, false
		}
		payload := b[4:length]
		switch binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case attrPacketHeader:
			if len(payload) < 4 {
				return p, false
			}
			p.ID, ok = binary.BigEndian.Uint32(payload), true
		case attrPayload:
			p.Head = payload
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return p, ok
}

// batch holds the messages of one recvmmsg(2).
type batch struct {
	headers [BatchSize]raw.Mmsghdr
	vectors [BatchSize]unix.Iovec
	data    [BatchSize][messageBytes]byte
}

const (
	// BatchSize is the maximum number of messages read by Ready.
	BatchSize = 16
	// messageBytes is enough for a message: headBytes, and a dozen short attributes.
	messageBytes = 2048
)

func newBatch() *batch {
	b := new(batch)
	for i := range b.headers {
		b.vectors[i].Base = &b.data[i][0]
		b.vectors[i].SetLen(messageBytes)
		b.headers[i].Msg.Iov = &b.vectors[i]
		b.headers[i].Msg.SetIovlen(1)
	}
	return b
}

func (b *batch) message(i int) []byte { return b.data[i][:min(int(b.headers[i].N), messageBytes)] }

func (b *batch) receive(fd int) (int, unix.Errno) {
	return raw.Recvmmsg(fd, b.headers[:])
}
