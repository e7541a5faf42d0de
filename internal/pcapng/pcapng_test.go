package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 11, 28, 12, 0, 0, 123456789, time.UTC)

// block is one block of a file, checked as section 3.1 wants it.
type block struct {
	kind uint32
	body []byte
}

func blocks(t *testing.T, b []byte) (all []block) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 12 {
			t.Fatalf("%d bytes after the last block", len(b))
		}
		n := binary.LittleEndian.Uint32(b[4:])
		if n%4 != 0 || n < 12 || int(n) > len(b) || binary.LittleEndian.Uint32(b[n-4:]) != n {
			t.Fatalf("block %d: length %d of %d", len(all), n, len(b))
		}
		all = append(all, block{binary.LittleEndian.Uint32(b), b[8 : n-4]})
		b = b[n:]
	}
	return all
}

// options parses the options at the end of a body.
func options(t *testing.T, b []byte) map[uint16][]byte {
	t.Helper()
	all := map[uint16][]byte{}
	for {
		if len(b) < 4 {
			t.Fatal("options without an end")
		}
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if code == 0 {
			if n != 0 || len(b) != 4 {
				t.Fatalf("%d bytes behind the options", len(b))
			}
			return all
		}
		if 4+n > len(b) {
			t.Fatalf("option %d has %d bytes of %d", code, n, len(b))
		}
		all[code] = b[4 : 4+n]
		b = b[4+(n+3)&^3:]
	}
}

func TestBlocks(t *testing.T) {
	var file bytes.Buffer
	w, err := NewWriter(&file, Interface{Name: "wan", Description: "card0", Application: "toe", Snap: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(Packet{Time: at, Length: 98, Outgoing: true, Frame: []byte("abcde")}); err != nil {
		t.Fatal(err)
	}
	if err := w.Statistics(at, 7, 3); err != nil {
		t.Fatal(err)
	}
	all := blocks(t, file.Bytes())
	if len(all) != 4 || all[0].kind != 0x0a0d0d0a || all[1].kind != 1 || all[2].kind != 6 || all[3].kind != 5 {
		t.Fatalf("%d blocks: %v", len(all), all)
	}
	if magic := binary.LittleEndian.Uint32(all[0].body); magic != 0x1a2b3c4d {
		t.Errorf("byte order %#x", magic)
	}
	if o := options(t, all[0].body[16:]); string(o[4]) != "toe" {
		t.Errorf("section: %v", o)
	}
	head := all[1].body
	if o := options(t, head[8:]); head[0] != 1 || head[4] != 5 || string(o[2]) != "wan" || string(o[3]) != "card0" || o[9][0] != 9 {
		t.Errorf("interface: % x, %v", head[:8], o)
	}
	p := all[2].body
	word := func(b []byte, i int) uint64 { return uint64(binary.LittleEndian.Uint32(b[4*i:])) }
	if word(p, 1)<<32|word(p, 2) != uint64(at.UnixNano()) || word(p, 3) != 5 || word(p, 4) != 98 || string(p[20:28]) != "abcde\x00\x00\x00" {
		t.Errorf("packet: % x", p)
	}
	if o := options(t, p[28:]); o[2][0] != 2 {
		t.Errorf("direction: %v", o)
	}
	o := options(t, all[3].body[12:])
	if binary.LittleEndian.Uint64(o[4]) != 7 || binary.LittleEndian.Uint64(o[7]) != 3 {
		t.Errorf("statistics: %v", o)
	}
}

// A frame has 1 to 4 bytes, so that each kind of padding is there.
func TestFrames(t *testing.T) {
	var file bytes.Buffer
	w, _ := NewWriter(&file, Interface{Name: strings.Repeat("n", 5000)})
	for n := range 5 {
		if err := w.Packet(Packet{Time: at, Length: 1, Frame: bytes.Repeat([]byte{7}, n)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range blocks(t, file.Bytes())[2:] {
		kept, length := binary.LittleEndian.Uint32(b.body[12:]), binary.LittleEndian.Uint32(b.body[16:])
		if int(kept) != i || length != max(kept, 1) {
			t.Errorf("frame %d: %d of %d bytes", i, kept, length)
		}
		options(t, b.body[20+(i+3)&^3:])
	}
	before := file.Len()
	if err := w.Packet(Packet{Frame: make([]byte, MaxFrame+1)}); err == nil || file.Len() != before {
		t.Errorf("a frame that is too long: %v, %d bytes", err, file.Len()-before)
	}
}

// full is a disk that takes only some bytes.
type full struct{ left int }

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("no space")
	}
	return len(b), nil
}

func TestWriteFails(t *testing.T) {
	if _, err := NewWriter(&full{30}, Interface{}); err == nil {
		t.Error("the head of a file: no error")
	}
	w, err := NewWriter(&full{100}, Interface{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(Packet{Frame: make([]byte, 100)}); err == nil {
		t.Error("a packet: no error")
	}
}

// TestTcpdump has the program read a file.
func TestTcpdump(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("tcpdump is missing")
	}
	var file bytes.Buffer
	w, _ := NewWriter(&file, Interface{Name: "wan", Application: "toe"})
	// An ARP request for 192.0.2.1 (RFC 826).
	frame := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" +
		"\x02\x00\x00\x00\x00\x01\xc0\x00\x02\x02\x00\x00\x00\x00\x00\x00\xc0\x00\x02\x01")
	_ = w.Packet(Packet{Time: at, Length: uint32(len(frame)), Frame: frame})
	_ = w.Statistics(at, 1, 0)
	cmd := exec.Command(tcpdump, "-tt", "-n", "-r", "-")
	cmd.Stdin = &file
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "1795867200.123456 ARP, Request who-has 192.0.2.1 tell 192.0.2.2") {
		t.Errorf("tcpdump: %v\n%s", err, out)
	}
}
