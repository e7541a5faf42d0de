package vhostuser

import (
	"encoding/binary"
	"fmt"
)

// index checks and returns the index of the ring that a message names.
func (s *session) index(m *message, v uint32) (int, error) {
	if uint64(v) >= uint64(len(s.rings)) {
		return 0, fmt.Errorf("%w: request %d for ring %d of %d", ErrMessage, m.request, v, len(s.rings))
	}
	return int(v), nil
}

// state decodes a vring state: ring and number, 4 bytes each.
func (s *session) state(m *message) (i int, v uint32, err error) {
	if len(m.payload) < 8 {
		return 0, 0, fmt.Errorf("%w: request %d of %d bytes, want 8", ErrMessage, m.request, len(m.payload))
	}
	i, err = s.index(m, binary.NativeEndian.Uint32(m.payload))
	return i, binary.NativeEndian.Uint32(m.payload[4:]), err
}

// setVringState executes SET_VRING_NUM, SET_VRING_BASE and SET_VRING_ENABLE. It
// refuses size and base while the ring runs (CVE-2026-86565).
func (s *session) setVringState(m *message) error {
	i, v, err := s.state(m)
	if err != nil {
		return err
	}
	r := &s.rings[i]
	if m.request == SetVringEnable {
		if r.started {
			if err := s.dev.EnableRing(i, v != 0); err != nil {
				return err
			}
		}
		r.Enabled = v != 0
		return nil
	}
	if r.started {
		return fmt.Errorf("%w: request %d for ring %d while it runs", ErrMessage, m.request, i)
	}
	if m.request == SetVringBase {
		r.Base = uint16(v)
		return nil
	}
	if v == 0 || v > 32768 || v&(v-1) != 0 {
		return fmt.Errorf("%w: ring %d of %d entries, want a power of two up to 32768", ErrMessage, i, v)
	}
	r.Size = int(v)
	return nil
}

// setVringAddr takes the addresses of a ring:
//
//	0       4       8        16      24      32      40
//	+-------+-------+--------+-------+-------+-------+
//	| index | flags | desc   | used  | avail | log   |
//	+-------+-------+--------+-------+-------+-------+
func (s *session) setVringAddr(m *message) error {
	if len(m.payload) < 40 {
		return fmt.Errorf("%w: SET_VRING_ADDR of %d bytes, want 40", ErrMessage, len(m.payload))
	}
	i, err := s.index(m, binary.NativeEndian.Uint32(m.payload))
	if err != nil {
		return err
	}
	r := &s.rings[i]
	desc := binary.NativeEndian.Uint64(m.payload[8:])
	used := binary.NativeEndian.Uint64(m.payload[16:])
	avail := binary.NativeEndian.Uint64(m.payload[24:])
	if r.started && (desc != r.Desc || used != r.Used || avail != r.Avail) {
		return fmt.Errorf("%w: SET_VRING_ADDR moves ring %d while it runs", ErrMessage, i)
	}
	r.Desc, r.Used, r.Avail, r.placed = desc, used, avail, true
	return nil
}

// setVringFile takes a kick, call or error descriptor. Bit 8 means that there
// is none. That is valid for call and error (the front end polls). It is refused
// for kick, since no pump polls a ring without limit.
func (s *session) setVringFile(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	i, err := s.index(m, uint32(v&0xff))
	if err != nil {
		return err
	}
	f := m.take()
	if (f == nil) != (v&0x100 != 0) {
		if f != nil {
			f.Close()
		}
		return fmt.Errorf("%w: request %d for ring %d: descriptor and flag disagree", ErrMessage, m.request, i)
	}
	if f, err = notifier(f, m.request == SetVringCall); err != nil {
		return fmt.Errorf("%w: request %d for ring %d: %w", ErrMessage, m.request, i, err)
	}
	r := &s.rings[i]
	slot := &r.Kick
	switch m.request {
	case SetVringErr:
		slot = &r.Err
	case SetVringCall:
		slot = &r.Call
	case SetVringKick:
		if f == nil {
			return fmt.Errorf("%w: ring %d without a kick descriptor: polling is not supported", ErrMessage, i)
		}
	}
	// The device uses the old descriptor until start passes the new one, and may
	// hand it to another pump at any time. So it is closed only afterwards.
	defer closeFile(*slot)
	*slot = f
	if !r.started && m.request != SetVringKick {
		return nil
	}
	return s.start(i)
}

// start starts a ring, or passes its new descriptors to the device. By the
// specification a ring starts at its first kick. Like other back ends this one
// polls the ring at once, because after a reconnect a guest may be waiting already.
func (s *session) start(i int) error {
	r := &s.rings[i]
	if r.Size == 0 || !r.placed {
		return fmt.Errorf("%w: ring %d starts without size or address", ErrMessage, i)
	}
	// Without protocol features there is no SET_VRING_ENABLE.
	if s.features&ProtocolFeature == 0 {
		r.Enabled = true
	}
	if err := s.dev.StartRing(i, r.Ring); err != nil {
		return fmt.Errorf("ring %d: %w", i, err)
	}
	r.started = true
	return nil
}

// stop stops a ring if it runs, and stores its position.
func (s *session) stop(i int) error {
	r := &s.rings[i]
	if !r.started {
		return nil
	}
	base, err := s.dev.StopRing(i)
	if err != nil {
		return fmt.Errorf("ring %d: %w", i, err)
	}
	r.started, r.Base = false, base
	return nil
}

// getVringBase stops a ring and returns its position.
func (s *session) getVringBase(m *message) ([]byte, error) {
	i, _, err := s.state(m)
	if err != nil {
		return nil, err
	}
	if err := s.stop(i); err != nil {
		return nil, err
	}
	replace(&s.rings[i].Kick, nil)
	replace(&s.rings[i].Call, nil)
	return u32s(uint32(i), uint32(s.rings[i].Base)), nil
}
