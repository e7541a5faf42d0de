package fakecard

import (
	"encoding/binary"
	"fmt"
)

// reclaim takes back the heads that the device has sent.
func (r *Ring) reclaim() error {
	n, err := r.done()
	for ; n > 0 && err == nil; n-- {
		var slot uint16
		if slot, _, err = r.collect(); err == nil {
			r.free = append(r.free, slot)
		}
	}
	return err
}

// Send sends one frame and waits while the ring is full.
func (r *Ring) Send(b []byte) error {
	for {
		if err := r.reclaim(); err != nil {
			return err
		}
		if len(r.free) > 0 {
			break
		}
		if err := r.wait(r.outLen/2 + 1); err != nil {
			return err
		}
	}
	if err := r.put(b); err != nil {
		return err
	}
	r.show()
	return nil
}

// put queues one frame in a free slot.
func (r *Ring) put(b []byte) error {
	if len(b) > r.at.size {
		return fmt.Errorf("%w: %d bytes, want at most %d", ErrSize, len(b), r.at.size)
	}
	slot := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	copy(r.buffer(slot), b)
	r.describe(slot, len(b))
	r.give(slot)
	return nil
}

// SendBatch sends as many of the frames as have room, without waiting, and
// kicks at most once.
func (r *Ring) SendBatch(frames [][]byte) (n int, err error) {
	if err = r.reclaim(); err != nil {
		return 0, err
	}
	for n < len(frames) && len(r.free) > 0 && err == nil {
		if err = r.put(frames[n]); err == nil {
			n++
		}
	}
	r.show()
	return n, err
}

// Prefill copies a frame into every free send buffer, for SendPrefilled.
func (r *Ring) Prefill(b []byte) error {
	if len(b) > r.at.size {
		return fmt.Errorf("%w: %d bytes, want at most %d", ErrSize, len(b), r.at.size)
	}
	for _, slot := range r.free {
		copy(r.buffer(slot), b)
		r.describe(slot, len(b))
	}
	return nil
}

// SendPrefilled sends up to n of the frames that Prefill made, unchanged. The
// driver then costs almost nothing.
func (r *Ring) SendPrefilled(n int) (sent int, err error) {
	if err = r.reclaim(); err != nil {
		return 0, err
	}
	for ; sent < n && len(r.free) > 0; sent++ {
		slot := r.free[len(r.free)-1]
		r.free = r.free[:len(r.free)-1]
		r.give(slot)
	}
	r.show()
	return sent, nil
}

// WaitSent waits until the device has completed at least one sent frame, if any
// is in flight.
func (r *Ring) WaitSent() error {
	if r.outLen == 0 {
		return nil
	}
	return r.wait(r.outLen/2 + 1)
}

// Flush waits until the device has completed all sent frames.
func (r *Ring) Flush() error {
	for {
		if err := r.reclaim(); err != nil || r.outLen == 0 {
			return err
		}
		if err := r.wait(r.outLen); err != nil {
			return err
		}
	}
}

// post gives every free receive buffer to the device.
func (r *Ring) post() {
	for _, slot := range r.free {
		r.give(slot)
	}
	r.free = r.free[:0]
	r.show()
}

// WaitRecv waits until there is a frame.
func (r *Ring) WaitRecv() error { return r.wait(1) }

// Recv waits for a frame and copies it, virtio header first, to b.
func (r *Ring) Recv(b []byte) (int, error) {
	for {
		n, ok, err := r.take(b)
		r.post()
		if err != nil || ok {
			return n, err
		}
		if err := r.wait(1); err != nil {
			return 0, err
		}
	}
}

// RecvBatch takes the frames that have arrived: bufs[i][:sizes[i]] is the i-th.
// It does not wait, and returns the buffers with at most one kick.
func (r *Ring) RecvBatch(bufs [][]byte, sizes []int) (n int, err error) {
	for ok := true; n < len(bufs); n++ {
		if sizes[n], ok, err = r.take(bufs[n]); err != nil || !ok {
			break
		}
	}
	r.post()
	return n, err
}

// Drain takes up to most frames and reads only their headers.
func (r *Ring) Drain(most int) (frames, bytes int, err error) {
	for frames < most {
		n, ok, err := r.take(nil)
		if err != nil || !ok {
			r.post()
			return frames, bytes, err
		}
		frames, bytes = frames+1, bytes+n
	}
	r.post()
	return frames, bytes, nil
}

// take takes one frame, from as many buffers as its header says. The frame must be
// complete. Buffers that come back with length 0 are chains that the device refused,
// and take passes over them.
func (r *Ring) take(b []byte) (n int, ok bool, err error) {
	have, err := r.done()
	for buffers := 1; buffers > 0; buffers-- {
		if err != nil {
			return n, false, err
		}
		if have == 0 {
			if n > 0 {
				err = fmt.Errorf("%w: ring %d: a frame shown without %d of its buffers", ErrDevice, r.index, buffers)
			}
			return n, false, err
		}
		have--
		var slot uint16
		var size uint32
		if slot, size, err = r.collect(); err != nil {
			return n, false, err
		}
		r.free = append(r.free, slot)
		if size == 0 && n == 0 {
			buffers++
			continue
		}
		buf := r.buffer(slot)
		if int(size) > len(buf) || size == 0 {
			return n, false, fmt.Errorf("%w: ring %d: %d bytes in a buffer of %d", ErrDevice, r.index, size, len(buf))
		}
		if n == 0 {
			if size < 12 {
				return n, false, fmt.Errorf("%w: ring %d: frame of %d bytes", ErrDevice, r.index, size)
			}
			buffers = int(binary.LittleEndian.Uint16(buf[10:]))
			if buffers == 0 || r.card.opts.NoMergeable && buffers != 1 {
				return n, false, fmt.Errorf("%w: ring %d: num_buffers %d", ErrDevice, r.index, buffers)
			}
		}
		if b != nil {
			if n+int(size) > len(b) {
				return n, false, fmt.Errorf("frame of more than %d bytes", len(b))
			}
			copy(b[n:], buf[:size])
		}
		n += int(size)
	}
	return n, true, nil
}
