package vhostuser

// Virtio feature bits, virtio 1.2 sections 5.1.3, 5.2.3 and 6. Bits below 24 have another meaning
// for each type of device.
const (
	NetCSum         = 1 << 0
	NetGuestCSum    = 1 << 1
	NetMTU          = 1 << 3
	NetMAC          = 1 << 5
	NetGuestTSO4    = 1 << 7
	NetGuestTSO6    = 1 << 8
	NetGuestECN     = 1 << 9
	NetHostTSO4     = 1 << 11
	NetHostTSO6     = 1 << 12
	NetHostECN      = 1 << 13
	NetMergeable    = 1 << 15
	NetStatus       = 1 << 16
	NetCtrlVQ       = 1 << 17
	NetMQ           = 1 << 22
	RingIndirect    = 1 << 28
	RingEventIdx    = 1 << 29
	ProtocolFeature = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	Version1        = 1 << 32
	NetGuestUSO4    = 1 << 54
	NetGuestUSO6    = 1 << 55
	NetHostUSO      = 1 << 56

	BlkSizeMax     = 1 << 1
	BlkSegMax      = 1 << 2
	BlkReadOnly    = 1 << 5
	BlkSize        = 1 << 6
	BlkFlush       = 1 << 9
	BlkTopology    = 1 << 10
	BlkConfigWCE   = 1 << 11
	BlkDiscard     = 1 << 13
	BlkWriteZeroes = 1 << 14
)

// Protocol feature bits of vhost-user.
const (
	protoMQ          = 1 << 0
	protoReplyAck    = 1 << 3
	protoNetMTU      = 1 << 4
	protoConfig      = 1 << 9
	protoResetDevice = 1 << 13
	protoMemSlots    = 1 << 15
	protoStatus      = 1 << 16
)

// protoAlways is what this back end offers for every device. It omits on purpose:
// INBAND_NOTIFICATIONS and BACKEND_REQ (the back end needs no channel to the front
// end), INFLIGHT_SHMFD (a ring whose heads are completed in order recovers from
// memory), LOG_SHMFD (a card does not migrate).
const protoAlways = protoReplyAck | protoConfig | protoResetDevice | protoMemSlots | protoStatus

// Shape is what the conversation must know of a type of device.
type Shape struct {
	rings    int
	pairs    int    // of a network device
	protocol uint64 // features that the back end offers
}

// NetShape is a network device of so many queue pairs. It has two rings per pair, and with several
// pairs one for control, which is the last (virtio 1.2 section 5.1.2). QEMU serves the control ring
// itself. MQ is offered only with more than one pair.
func NetShape(pairs int) Shape {
	if pairs > 1 {
		return Shape{rings: 2*pairs + 1, pairs: pairs, protocol: protoAlways | protoNetMTU | protoMQ}
	}
	return Shape{rings: 2, pairs: 1, protocol: protoAlways | protoNetMTU}
}

// BlkShape is a block device with one ring for requests (virtio 1.2 section 5.2.2).
func BlkShape() Shape { return Shape{rings: 1, pairs: 1, protocol: protoAlways} }

// countsRings are the offered protocol features that User-Mode Linux accepts. It and
// crosvm, which accept these, read GET_QUEUE_NUM as the number of rings, with the
// control ring. QEMU, which accepts more, reads it as the number of queue pairs.
const countsRings = protoMQ | protoReplyAck | protoConfig

// queueNum is the answer to GET_QUEUE_NUM.
func (s Shape) queueNum(protocol uint64) uint64 {
	if protocol == countsRings {
		return uint64(s.rings)
	}
	return uint64(s.pairs)
}

// maxMemSlots is the most memory regions that a front end may have.
const maxMemSlots = 64
