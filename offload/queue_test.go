package offload

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// message is what the kernel sends for one held packet.
func message(id uint32, head []byte) []byte {
	attrs := attribute(attrPacketHeader, append(binary.BigEndian.AppendUint32(nil, id), 8, 0, 1))
	attrs = append(attrs, attribute(attrPayload, head)...)
	b := make([]byte, messageHead, messageHead+len(attrs))
	binary.NativeEndian.PutUint32(b, uint32(messageHead+len(attrs)))
	binary.NativeEndian.PutUint16(b[4:], queuePacket)
	return append(b, attrs...)
}

func parsed(b []byte) (out []heldPacket) {
	q := queue{held: func(p heldPacket) { out = append(out, p) }}
	q.parse(b)
	return out
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
		"an attribute too long":   {func() []byte { b := bytes.Clone(one); b[messageHead] = 200; return b }(), 0},
		"an attribute of nothing": {func() []byte { b := bytes.Clone(one); b[messageHead] = 0; return b }(), 0},
		"another kind":            {func() []byte { b := bytes.Clone(one); b[4] = 9; return b }(), 0},
	} {
		if got := parsed(c.in); len(got) != c.want {
			t.Errorf("%s: %d packets, want %d", name, len(got), c.want)
		}
	}
	got := parsed(append(one, two...))
	if got[0].id != 7 || string(got[0].head) != "abc" || got[1].id != 8 || string(got[1].head) != "defgh" {
		t.Errorf("got %v", got)
	}
}

func FuzzQueue(f *testing.F) {
	f.Add(message(1, head4))
	f.Add(append(message(1, head4), message(2, head6)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range parsed(b) {
			if len(p.head) > len(b) {
				t.Fatal("a head longer than its message")
			}
		}
	})
}

var (
	// SYN from 10.116.0.0:4660 to 192.0.2.1:80, class 0x48, number 0xcafebabe, with one option.
	head4 = []byte{
		0x46, 0x4a, 0, 44, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 116, 0, 0, 192, 0, 2, 1, 1, 1, 1, 0,
		0x12, 0x34, 0, 80, 0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
	}
	// The same over IPv6 with a hop-by-hop header, class 0x48.
	head6 = append([]byte{0x64, 0x80, 0, 0, 0, 28, 0, 64},
		append(append(netip.MustParseAddr("fd74::2").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice()...),
			6, 0, 1, 4, 0, 0, 0, 0,
			0x12, 0x34, 0, 80, 0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0)...)
)

func TestParseSegment(t *testing.T) {
	for name, c := range map[string]struct {
		head     []byte
		from, to string
	}{
		"IPv4": {head4, "10.116.0.0:4660", "192.0.2.1:80"},
		"IPv6": {head6, "[fd74::2]:4660", "[2001:db8::1]:80"},
	} {
		s, ok := parseSegment(c.head)
		if !ok || s.from.String() != c.from || s.to.String() != c.to || s.class != 0x48 || s.seq != 0xcafebabe {
			t.Errorf("%s: %v %v", name, s, ok)
		}
		for n := range len(c.head) - 12 { // up to the number
			if s, ok := parseSegment(c.head[:n]); ok {
				t.Errorf("%s: %d bytes give %v", name, n, s)
			}
		}
	}
	for name, change := range map[string]struct {
		at    int
		value byte
	}{"version": {0, 0x56}, "header length": {0, 0x41}, "UDP": {9, 17}, "a later fragment": {7, 3}} {
		b := bytes.Clone(head4)
		b[change.at] = change.value
		if s, ok := parseSegment(b); ok {
			t.Errorf("%s: %v", name, s)
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(head4)
	f.Add(head6)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseSegment(b)
		if ok && (!s.from.IsValid() || !s.to.IsValid()) {
			t.Fatalf("%v", s)
		}
	})
}
