package vhostuser

import (
	"encoding/binary"
	"fmt"
	"os"
)

// A region in SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG:
//
//	0        8       16      24
//	+--------+-------+-------+--------+
//	| guest  | size  | user  | offset |
//	+--------+-------+-------+--------+
const regionLen = 32

func region(b []byte) Region {
	return Region{
		Guest:  binary.NativeEndian.Uint64(b),
		Size:   binary.NativeEndian.Uint64(b[8:]),
		User:   binary.NativeEndian.Uint64(b[16:]),
		Offset: binary.NativeEndian.Uint64(b[24:]),
	}
}

// setMemTable replaces the table: a count, padding, and that many regions with
// a descriptor each.
func (s *session) setMemTable(m *message) error {
	if len(m.payload) < 8 {
		return fmt.Errorf("%w: SET_MEM_TABLE of %d bytes", ErrMessage, len(m.payload))
	}
	n := int(binary.NativeEndian.Uint32(m.payload))
	if n < 1 || n > maxFiles || len(m.files) != n || len(m.payload) < 8+n*regionLen {
		return fmt.Errorf("%w: SET_MEM_TABLE of %d regions with %d descriptors in %d bytes", ErrMessage, n, len(m.files), len(m.payload))
	}
	table := make([]Region, n)
	for i := range table {
		table[i] = region(m.payload[8+i*regionLen:])
		table[i].File = m.files[i]
	}
	if err := s.dev.SetMemory(table); err != nil {
		return err
	}
	m.files = nil
	for _, r := range s.table {
		r.File.Close()
	}
	s.table = table
	return nil
}

// addMemReg adds one region (after 8 bytes of padding). QEMU 7.2 adds each region
// again for every further queue pair, and removes it as often.
func (s *session) addMemReg(m *message) error {
	if len(m.payload) < 8+regionLen || len(m.files) != 1 {
		return fmt.Errorf("%w: ADD_MEM_REG of %d bytes with %d descriptors", ErrMessage, len(m.payload), len(m.files))
	}
	if i := s.find(region(m.payload[8:])); i >= 0 && sameFile(s.table[i].File, m.files[0]) {
		s.table[i].again++
		return nil
	}
	if len(s.table) >= maxMemSlots {
		return fmt.Errorf("ADD_MEM_REG: all %d slots are taken", maxMemSlots)
	}
	r := region(m.payload[8:])
	r.File = m.files[0]
	table := append(s.table[:len(s.table):len(s.table)], r)
	if err := s.dev.SetMemory(table); err != nil {
		return err
	}
	m.files = nil
	s.table = table
	return nil
}

// remMemReg removes one region. Front ends pass a descriptor with it, which
// has no meaning and is closed with the message.
func (s *session) remMemReg(m *message) error {
	if len(m.payload) < 8+regionLen {
		return fmt.Errorf("%w: REM_MEM_REG of %d bytes", ErrMessage, len(m.payload))
	}
	gone := region(m.payload[8:])
	i := s.find(gone)
	if i < 0 {
		return fmt.Errorf("REM_MEM_REG: no region of %d bytes at %#x", gone.Size, gone.Guest)
	}
	if s.table[i].again > 0 {
		s.table[i].again--
		return nil
	}
	table := append(append([]Region(nil), s.table[:i]...), s.table[i+1:]...)
	if err := s.dev.SetMemory(table); err != nil {
		return err
	}
	s.table[i].File.Close()
	s.table = table
	return nil
}

// find returns the index of a region in the table, -1 if it is not there. It ignores
// the offset, which REM_MEM_REG may leave out.
func (s *session) find(r Region) int {
	for i, have := range s.table {
		if have.Guest == r.Guest && have.User == r.User && have.Size == r.Size {
			return i
		}
	}
	return -1
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}
