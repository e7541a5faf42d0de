package frame

import (
	"encoding/binary"
	"errors"
	"testing"
)

var all = GSO{TCPv4: true, TCPv6: true, ECN: true, UDP: true}

func head(flags, kind byte, size, start, offset uint16, ether uint16) *Seam {
	s := new(Seam)
	s[offFlags], s[offGSOType] = flags, kind
	binary.LittleEndian.PutUint16(s[offHdrLen:], 0xffff)
	binary.LittleEndian.PutUint16(s[offGSOSize:], size)
	binary.LittleEndian.PutUint16(s[offCSumStart:], start)
	binary.LittleEndian.PutUint16(s[offCSumOffset:], offset)
	binary.BigEndian.PutUint16(s[HeaderLen+12:], ether)
	return s
}

// Bad GSO or checksum fields: CVE-2026-100236, CVE-2023-6693.
func TestFromCard(t *testing.T) {
	for _, c := range []struct {
		name  string
		s     *Seam
		first byte
		size  int
		gso   GSO
		err   error
	}{
		{"plain IPv4", head(0, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 20, all, nil},
		{"plain IPv6", head(0, 0, 0, 0, 0, etherIPv6), 0x60, SeamLen + 40, all, nil},
		{"data valid is dropped, not refused", head(DataValid, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 20, all, nil},
		{"empty", head(0, 0, 0, 0, 0, etherIPv4), 0, SeamLen, all, ErrShort},
		{"shorter than the seam", head(0, 0, 0, 0, 0, etherIPv4), 0, 3, all, ErrShort},
		{"short IPv4", head(0, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 19, all, ErrShort},
		{"short IPv6", head(0, 0, 0, 0, 0, etherIPv6), 0x60, SeamLen + 39, all, ErrShort},
		{"largest", head(0, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 65535, all, nil},
		{"too long", head(0, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 65536, all, ErrLong},
		{"ARP", head(0, 0, 0, 0, 0, 0x0806), 0x00, SeamLen + 28, all, ErrNotIP},
		{"type and version disagree", head(0, 0, 0, 0, 0, etherIPv4), 0x60, SeamLen + 60, all, ErrNotIP},
		{"checksum", head(NeedsCSum, 0, 0, 34, 16, etherIPv4), 0x45, SeamLen + 40, all, nil},
		{"checksum in the Ethernet head", head(NeedsCSum, 0, 0, 8, 2, etherIPv4), 0x45, SeamLen + 40, all, ErrHeader},
		{"checksum in the IP header", head(NeedsCSum, 0, 0, 33, 16, etherIPv4), 0x45, SeamLen + 60, all, ErrHeader},
		{"checksum in the IPv6 header", head(NeedsCSum, 0, 0, 34, 16, etherIPv6), 0x60, SeamLen + 80, all, ErrHeader},
		{"checksum behind the end", head(NeedsCSum, 0, 0, 34, 19, etherIPv4), 0x45, SeamLen + 40, all, ErrHeader},
		{"checksum start 65535", head(NeedsCSum, 0, 0, 65535, 65535, etherIPv4), 0x45, SeamLen + 40, all, ErrHeader},
		{"unknown flag", head(8, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 40, all, ErrHeader},
		{"RSC flag", head(RSCInfo, 0, 0, 0, 0, etherIPv4), 0x45, SeamLen + 40, all, ErrHeader},
		{"TSO4", head(NeedsCSum, GSOTCPv4, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 4000, all, nil},
		{"TSO4 with ECN", head(NeedsCSum, GSOTCPv4|GSOECN, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 4000, all, nil},
		{"TSO4 without checksum", head(0, GSOTCPv4, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 4000, all, ErrHeader},
		{"TSO4 of size 0", head(NeedsCSum, GSOTCPv4, 0, 34, 16, etherIPv4), 0x45, SeamLen + 4000, all, ErrHeader},
		{"TSO4 on IPv6", head(NeedsCSum, GSOTCPv4, 1448, 54, 16, etherIPv6), 0x60, SeamLen + 4000, all, ErrHeader},
		{"TSO4 not negotiated", head(NeedsCSum, GSOTCPv4, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 4000, GSO{TCPv6: true}, ErrHeader},
		{"ECN not negotiated", head(NeedsCSum, GSOTCPv4|GSOECN, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 4000, GSO{TCPv4: true}, ErrHeader},
		{"TSO4 without room for TCP", head(NeedsCSum, GSOTCPv4, 1448, 34, 16, etherIPv4), 0x45, SeamLen + 39, all, ErrHeader},
		{"TSO6", head(NeedsCSum, GSOTCPv6, 1428, 54, 16, etherIPv6), 0x60, SeamLen + 4000, all, nil},
		{"USO", head(NeedsCSum, GSOUDPL4, 1400, 34, 6, etherIPv4), 0x45, SeamLen + 4000, all, nil},
		{"USO with ECN", head(NeedsCSum, GSOUDPL4|GSOECN, 1400, 34, 6, etherIPv4), 0x45, SeamLen + 4000, all, ErrHeader},
		{"UFO", head(NeedsCSum, GSOUDP, 1400, 34, 6, etherIPv4), 0x45, SeamLen + 4000, all, ErrHeader},
		{"unknown GSO type", head(NeedsCSum, 0x7f, 1400, 34, 6, etherIPv4), 0x45, SeamLen + 4000, all, ErrHeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			var hdr [HeaderLen]byte
			err := FromCard(&hdr, c.s, c.first, c.size, c.gso)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if hdr[offFlags]&^NeedsCSum != 0 || binary.LittleEndian.Uint16(hdr[offNumBuffers:]) != 0 {
				t.Errorf("header towards the host keeps what means nothing there: % x", hdr)
			}
			if hdr[offFlags]&NeedsCSum != 0 {
				got := binary.LittleEndian.Uint16(hdr[offCSumStart:])
				if want := binary.LittleEndian.Uint16(c.s[offCSumStart:]) - EtherLen; got != want {
					t.Errorf("csum_start %d, want %d", got, want)
				}
			}
		})
	}
}

func TestToCard(t *testing.T) {
	hdr := [HeaderLen]byte{NeedsCSum, GSOTCPv4}
	binary.LittleEndian.PutUint16(hdr[offHdrLen:], 54)
	binary.LittleEndian.PutUint16(hdr[offGSOSize:], 1448)
	binary.LittleEndian.PutUint16(hdr[offCSumStart:], 20)
	binary.LittleEndian.PutUint16(hdr[offCSumOffset:], 16)
	var s Seam
	if err := ToCard(&s, &hdr, 0x45, 3000, 2); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name string
		off  int
		want uint16
	}{{"hdr_len", offHdrLen, 0}, {"gso_size", offGSOSize, 1448}, {"csum_start", offCSumStart, 34}, {"csum_offset", offCSumOffset, 16}, {"num_buffers", offNumBuffers, 2}} {
		if got := binary.LittleEndian.Uint16(s[f.off:]); got != f.want {
			t.Errorf("%s %d, want %d", f.name, got, f.want)
		}
	}
	// What goes out of one side is accepted by the other, and comes back as it was.
	var back [HeaderLen]byte
	if err := FromCard(&back, &s, 0x45, 3000+SeamLen, all); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(hdr[offHdrLen:], 0)
	if back != hdr {
		t.Errorf("there and back: % x, want % x", back, hdr)
	}
	for _, c := range []struct {
		first byte
		size  int
		err   error
	}{{0x00, 100, ErrNotIP}, {0xf5, 100, ErrNotIP}, {0x45, 19, ErrShort}, {0x60, 39, ErrShort}, {0x60, 40, nil}} {
		if err := ToCard(&s, &hdr, c.first, c.size, 1); !errors.Is(err, c.err) {
			t.Errorf("first byte %#x, %d bytes: %v, want %v", c.first, c.size, err, c.err)
		}
	}
}

func TestEthernet(t *testing.T) {
	for _, c := range []struct {
		name string
		s    *Seam
		size int
		err  error
	}{
		{"plain", head(0, 0, 0, 0, 0, 0), 14, nil},
		{"short (CVE-2024-41090)", head(0, 0, 0, 0, 0, 0), 13, ErrShort},
		{"long", head(0, 0, 0, 0, 0, 0), 65554, ErrLong},
		{"TSO", head(NeedsCSum, GSOTCPv6, 1400, 54, 16, 0), 4000, nil},
		{"checksum in the head", head(NeedsCSum, 0, 0, 13, 2, 0), 60, ErrHeader},
	} {
		hdr := *(*[HeaderLen]byte)(c.s[:])
		if err := Ethernet(&hdr, c.size, all); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

func FuzzFromCard(f *testing.F) {
	f.Add(make([]byte, SeamLen), byte(0x45), 60)
	f.Add(head(NeedsCSum, GSOTCPv4, 1448, 34, 16, etherIPv4)[:], byte(0x45), 4000)
	f.Add(head(NeedsCSum, GSOTCPv6, 1448, 54, 16, etherIPv6)[:], byte(0x60), 65561)
	f.Fuzz(func(t *testing.T, b []byte, first byte, size int) {
		var s Seam
		copy(s[:], b)
		var hdr [HeaderLen]byte
		if err := FromCard(&hdr, &s, first, size, all); err != nil {
			return
		}
		// Whatever passes names bytes inside the packet only.
		if packet := size - SeamLen; hdr[offFlags]&NeedsCSum != 0 {
			start := int(binary.LittleEndian.Uint16(hdr[offCSumStart:]))
			offset := int(binary.LittleEndian.Uint16(hdr[offCSumOffset:]))
			if start < minIPv4 || start+offset+2 > packet {
				t.Fatalf("checksum at %d+%d of %d bytes passed", start, offset, packet)
			}
		} else if hdr[offGSOType] != 0 {
			t.Fatal("segmentation without a checksum passed")
		}
	})
}
