package nfqueue

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// message is what the kernel sends for one held packet.
func message(id uint32, head []byte) []byte {
	attrs := attribute(attrPacketHeader, append(binary.BigEndian.AppendUint32(nil, id), 8, 0, 1))
	attrs = append(attrs, attribute(attrPayload, head)...)
	b := make([]byte, messageHead, messageHead+len(attrs))
	binary.NativeEndian.PutUint32(b, uint32(messageHead+len(attrs)))
	binary.NativeEndian.PutUint16(b[4:], kindPacket)
	return append(b, attrs...)
}

func parsed(b []byte) (out []Packet) {
	q := Queue{held: func(p Packet) { out = append(out, p) }}
	q.parse(b)
	return out
}

// attributeLength returns a message whose first attribute says that it has n bytes.
func attributeLength(message []byte, n uint16) []byte {
	b := bytes.Clone(message)
	binary.NativeEndian.PutUint16(b[messageHead:], n)
	return b
}

func TestQueueParsesWholeMessagesOnly(t *testing.T) {
	one, two := message(7, []byte("abc")), message(8, []byte("defgh"))
	for name, c := range map[string]struct {
		in   []byte
		want int
	}{
		"two":                     {append(bytes.Clone(one), two...), 2},
		"the second is cut":       {append(bytes.Clone(one), two[:len(two)-9]...), 1},
		"empty":                   {nil, 0},
		"a length of nothing":     {make([]byte, 64), 0},
		"an attribute too long":   {attributeLength(one, 200), 0},
		"an attribute of nothing": {attributeLength(one, 0), 0},
		"another kind":            {func() []byte { b := bytes.Clone(one); b[4] = 9; return b }(), 0},
	} {
		if got := parsed(c.in); len(got) != c.want {
			t.Errorf("%s: %d packets, want %d", name, len(got), c.want)
		}
	}
	got := parsed(append(one, two...))
	if got[0].ID != 7 || string(got[0].Head) != "abc" || got[1].ID != 8 || string(got[1].Head) != "defgh" {
		t.Errorf("got %v", got)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add(message(1, []byte("an IPv4 head")))
	f.Add(append(message(1, []byte("an IPv4 head")), message(2, []byte("a longer IPv6 head"))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range parsed(b) {
			if len(p.Head) > len(b) {
				t.Fatal("a head longer than its message")
			}
		}
	})
}
