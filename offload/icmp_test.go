package offload

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func addressed(s string) peer { return peerOf(netip.MustParseAddrPort(s)) }

// TestICMPErrorBytes compares with messages written out by hand.
func TestICMPErrorBytes(t *testing.T) {
	for _, c := range []struct {
		name string
		e    icmpError
		want string
	}{
		{"IPv4 port unreachable", icmpError{
			kind: 3, code: 3, to: addressed("10.0.0.1:4660"),
			source: addressed("10.0.0.1:4660"), target: addressed("192.0.2.1:53"), quoted: []byte("abc"),
		}, "0303" + "2626" + "00000000" +
			"4500001f00000000" + "4011" + "aecc" + "0a000001c0000201" +
			"12340035" + "000b0000" + "616263"},
		{"IPv6 address unreachable", icmpError{
			kind: 1, code: 3, to: addressed("[fd00::1]:4660"),
			source: addressed("[fd00::1]:4660"), target: addressed("[2001:db8::1]:53"),
		}, "0103" + "0000" + "00000000" +
			"60000000" + "0008" + "1140" + "fd000000000000000000000000000001" + "20010db8000000000000000000000001" +
			"12340035" + "00080000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.e.put(make([]byte, 1280))
			if hex.EncodeToString(got) != c.want {
				t.Errorf("got  %x\nwant %s", got, c.want)
			}
		})
	}
}

// TestICMPErrorSums checks by the rule of RFC 1071: the sum over a part with
// its checksum is zero.
func TestICMPErrorSums(t *testing.T) {
	for size := range 1400 {
		e := icmpError{
			kind: 3, code: 1, to: addressed("10.0.0.1:4660"),
			source: addressed("10.0.0.1:4660"), target: addressed("192.0.2.1:53"), quoted: bytes.Repeat([]byte{0xa5}, size),
		}
		got := e.put(make([]byte, 1280))
		if internetSum(got) != 0 || internetSum(got[8:28]) != 0 || len(got)+20 > 576 {
			t.Fatalf("%d bytes quoted: message of %d bytes, sums %#x and %#x", size, len(got), internetSum(got), internetSum(got[8:28]))
		}
		e.to, e.source, e.target = addressed("[fd00::1]:4660"), addressed("[fd00::1]:4660"), addressed("[2001:db8::1]:53")
		if got := e.put(make([]byte, 1280)); len(got)+40 > 1280 {
			t.Fatalf("%d bytes quoted: message of %d bytes", size, len(got))
		}
	}
}

func TestErrorsForTheHost(t *testing.T) {
	for _, c := range []struct {
		four bool
		r    reported
		want bool
	}{
		{true, reported{kind: 3, code: 3}, true},
		{true, reported{kind: 3, code: 4}, false}, // fragmentation needed
		{true, reported{kind: 11, code: 1}, true},
		{true, reported{kind: 5, code: 0}, false}, // redirect
		{true, reported{kind: 1, code: 0}, false},
		{false, reported{kind: 1, code: 4}, true},
		{false, reported{kind: 2, code: 0}, false}, // packet too big
		{false, reported{kind: 3, code: 0}, true},
	} {
		if got := c.r.forHost(c.four); got != c.want {
			t.Errorf("IPv4 %t, %+v: %t, want %t", c.four, c.r, got, c.want)
		}
	}
}

// FuzzControl: control messages come from the kernel. Whatever they hold,
// nothing is read beyond them.
func FuzzControl(f *testing.F) {
	room := make([]byte, controlSize)
	c := controls{buf: room}
	local := addressed("192.0.2.1:0")
	c.source(&local)
	c.add(unix.SOL_UDP, unix.UDP_GRO, 4)[0] = 100
	copy(c.add(unix.SOL_IP, unix.IP_RECVERR, 32), []byte{111, 0, 0, 0, unix.SO_EE_ORIGIN_ICMP, 3, 3})
	f.Add(room[:c.n])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := datagram{data: make([]byte, 500)}
		d.decode(b)
		if d.segment < 0 || d.segment >= 500 || d.count() < 1 || d.count() > 500 {
			t.Errorf("segment %d, %d datagrams of 500 bytes", d.segment, d.count())
		}
		_, _ = parseReported(b)
	})
}
