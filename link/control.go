package link

import (
	"encoding/binary"
	"errors"

	"github.com/toe-project/toe/link/vring"
)

// control is the control ring of a device with several queue pairs (virtio 1.2
// section 5.1.6.5). User-Mode Linux passes it to the back end. QEMU serves its own.
// The pump serves it, not the keeper, because the ring is in the card's memory and the
// keeper must not read that memory. The keeper gets one number, checked. A command is
//
//	0       1         2
//	+-------+---------+------- - -      +-----+
//	| class | command | data            | ack |   the device writes ack
//	+-------+---------+------- - -      +-----+
//
// The only supported command sets how many pairs the driver uses. A driver sends others only with
// features that are not offered.
type control struct {
	virtqueue
	pairs  int       // that the device has
	used   int       // that the driver uses, as last reported to the keeper
	report func(int) // reports used to the keeper
}

const (
	classMQ  = 4 // VIRTIO_NET_CTRL_MQ
	setPairs = 0 // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; data is 2 bytes

	ackOK  = 0 // VIRTIO_NET_OK
	ackErr = 1 // VIRTIO_NET_ERR
)

// runCommands executes pending commands, a limited number per turn so that packets get theirs.
func (q *queuePair) runCommands() {
	c := &q.control
	const most = 16
	tries := 0
	for ; tries < most && c.running(); tries++ {
		n, err := c.ring.Waiting()
		if err == nil && n == 0 {
			break
		}
		var head uint16
		var command [4]byte
		var got int
		var ack *byte
		if err == nil {
			head, got, ack, err = c.ring.TakeCommand(command[:])
		}
		if err == nil && ack == nil {
			err = errNoAck
		}
		if err != nil {
			if !q.chainError(&c.virtqueue, head, err) {
				return
			}
			continue
		}
		c.bad = 0
		*ack = c.do(command[:got])
		c.ring.Complete(head, 1)
	}
	if tries > 0 && c.running() {
		c.publish()
	}
}

var errNoAck = errors.Join(vring.ErrChain, errors.New("command without a place for its acknowledgement"))

// do executes a command and returns its acknowledgement.
func (c *control) do(command []byte) byte {
	if len(command) < 4 || command[0] != classMQ || command[1] != setPairs {
		return ackErr
	}
	n := int(binary.LittleEndian.Uint16(command[2:]))
	if n < 1 || n > c.pairs {
		return ackErr
	}
	if n != c.used {
		c.used = n
		c.report(n)
	}
	return ackOK
}
