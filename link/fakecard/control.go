package fakecard

import "fmt"

// Command sends a command over the control ring, class and number first, and
// returns the device's acknowledgement.
func (c *Card) Command(command []byte) (ack byte, err error) {
	r := c.Control()
	const at = 64 // of the acknowledgement in the first buffer
	if len(command) > at {
		return 0, fmt.Errorf("command of %d bytes, want at most %d", len(command), at)
	}
	buf := r.buffer(0)
	copy(buf, command)
	buf[at] = 0xff
	err = c.CommandRaw([]Desc{
		{r.BufferAddr(0), uint32(len(command)), Next, 1},
		{r.BufferAddr(0) + at, 1, Write, 0},
	})
	return buf[at], err
}

// Control is the control ring.
func (c *Card) Control() *Ring { return c.rings[2*c.opts.Pairs] }

// CommandRaw sends a chain of descriptors, the first ones of the table, over the
// control ring, and waits until it comes back.
func (c *Card) CommandRaw(chain []Desc) error {
	r := c.Control()
	for i, d := range chain {
		r.SetDesc(i, d)
	}
	r.lengths[0] = unwritten
	r.give(0)
	r.show()
	if err := r.wait(1); err != nil {
		return err
	}
	_, size, err := r.collect()
	if err == nil && size > 1 {
		err = fmt.Errorf("%w: acknowledgement of %d bytes", ErrDevice, size)
	}
	return err
}
