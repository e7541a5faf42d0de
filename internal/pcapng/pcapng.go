// Package pcapng writes packets of one interface as wireshark and tcpdump read them:
// draft-ietf-opsawg-pcapng, one section.
package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxFrame bounds a frame, in bytes: the snap length that tcpdump takes (MAXIMUM_SNAPLEN).
const MaxFrame = 256 << 10

// Types of blocks, codes of options.
const (
	sectionHeader  = 0x0a0d0d0a // section 4.1
	interfaceBlock = 1          // 4.2
	statistics     = 5          // 4.5
	enhancedPacket = 6          // 4.3

	byteOrderMagic = 0x1a2b3c4d
	linkEthernet   = 1

	optName, optDescription, optApplication = 2, 3, 4
	optResolution                           = 9
	optFlags                                = 2 // of a packet
	optEnd, optReceived, optDropped         = 3, 4, 7

	nanoseconds = 9 // 10 to the power of -9 s

	inbound, outbound = 1, 2
)

// Interface is what the file says about where its packets come from.
type Interface struct {
	Name        string // "wan"
	Description string // "card0"
	Application string // that writes the file
	Snap        uint32 // bytes kept of each frame; 0 for all
}

// Packet is one Ethernet frame.
type Packet struct {
	Time     time.Time // since 1970
	Length   uint32    // bytes on the wire, at least those in Frame
	Outgoing bool
	Frame    []byte
}

// Writer writes a file. Each call writes one whole block, so what is there after a call is a valid
// file.
type Writer struct {
	w   io.Writer
	buf []byte // the block
}

// NewWriter writes the head of a file of Ethernet frames.
func NewWriter(w io.Writer, i Interface) (*Writer, error) {
	p := &Writer{w: w}
	p.begin(sectionHeader)
	p.u32(byteOrderMagic)
	p.u16(1) // version 1.0
	p.u16(0)
	p.u64(1<<64 - 1) // length: not given
	p.option(optApplication, []byte(i.Application))
	if err := p.end(); err != nil {
		return nil, err
	}
	p.begin(interfaceBlock)
	p.u16(linkEthernet)
	p.u16(0)
	p.u32(i.Snap)
	p.option(optName, []byte(i.Name))
	p.option(optDescription, []byte(i.Description))
	p.option(optResolution, []byte{nanoseconds})
	return p, p.end()
}

// Packet writes a frame.
func (p *Writer) Packet(k Packet) error {
	if len(k.Frame) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes: want %d at most", len(k.Frame), MaxFrame)
	}
	p.begin(enhancedPacket)
	p.u32(0) // the interface
	p.time(k.Time)
	p.u32(uint32(len(k.Frame)))
	p.u32(max(k.Length, uint32(len(k.Frame))))
	p.bytes(k.Frame)
	flags := uint32(inbound)
	if k.Outgoing {
		flags = outbound
	}
	p.option(optFlags, binary.LittleEndian.AppendUint32(nil, flags))
	return p.end()
}

// Statistics writes the interface's counters at the end of a capture: packets that arrived, and
// those of them that are not in the file because nothing read them in time.
func (p *Writer) Statistics(at time.Time, received, dropped uint64) error {
	p.begin(statistics)
	p.u32(0)
	p.time(at)
	end := uint64(at.UnixNano())
	p.option(optEnd, binary.LittleEndian.AppendUint32(
		binary.LittleEndian.AppendUint32(nil, uint32(end>>32)), uint32(end)))
	p.option(optReceived, binary.LittleEndian.AppendUint64(nil, received))
	p.option(optDropped, binary.LittleEndian.AppendUint64(nil, dropped))
	return p.end()
}

// 0  type            4
// 4  length          4  of the whole block
// 8  body, options      each padded to 4
//
//	length again    4
func (p *Writer) begin(kind uint32) {
	p.buf = append(binary.LittleEndian.AppendUint32(p.buf[:0], kind), 0, 0, 0, 0)
}

func (p *Writer) end() error {
	p.u32(0) // the end of the options
	p.u32(uint32(len(p.buf) + 4))
	binary.LittleEndian.PutUint32(p.buf[4:], uint32(len(p.buf)))
	n, err := p.w.Write(p.buf)
	if err == nil && n < len(p.buf) {
		err = errors.New("a short write")
	}
	return err
}

func (p *Writer) u16(v uint16) { p.buf = binary.LittleEndian.AppendUint16(p.buf, v) }
func (p *Writer) u32(v uint32) { p.buf = binary.LittleEndian.AppendUint32(p.buf, v) }
func (p *Writer) u64(v uint64) { p.buf = binary.LittleEndian.AppendUint64(p.buf, v) }

// time is in nanoseconds, the upper half first.
func (p *Writer) time(t time.Time) {
	ns := uint64(t.UnixNano())
	p.u32(uint32(ns >> 32))
	p.u32(uint32(ns))
}

func (p *Writer) bytes(b []byte) {
	p.buf = append(p.buf, b...)
	for len(p.buf)%4 != 0 {
		p.buf = append(p.buf, 0)
	}
}

// option leaves out an empty one. Its length has 16 bits.
func (p *Writer) option(code uint16, value []byte) {
	if len(value) == 0 {
		return
	}
	value = value[:min(len(value), 1<<10)]
	p.u16(code)
	p.u16(uint16(len(value)))
	p.bytes(value)
}
