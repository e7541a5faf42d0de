package offload

import (
	"bytes"
	"net/netip"
	"testing"
)

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
