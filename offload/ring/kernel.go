package ring

// Structures and constants of linux/io_uring.h.

// parameters is struct io_uring_params.
type parameters struct {
	sqEntries, cqEntries, flags          uint32
	threadCPU, threadIdle, features, wqf uint32
	_                                    [3]uint32
	sq                                   sqOffsets
	cq                                   cqOffsets
}

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array uint32
	_                                                uint32
	_                                                uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	head, tail, mask, entries, overflow, results, flags uint32
	_                                                   uint32
	_                                                   uint64
}

// call is struct io_uring_sqe.
type call struct {
	call, entry uint8
	priority    uint16
	fd          int32
	offset      uint64
	addr        uint64
	length      uint32
	flags       uint32
	tag         uint64
	_           uint32
	more        uint32 // length of an option
	arg         uint64 // address of its value
	_           uint64
}

// result is struct io_uring_cqe.
type result struct {
	tag   uint64
	n     int32
	flags uint32
}

// probe is struct io_uring_probe.
type probe struct {
	last, n uint8
	_       uint16
	_       [3]uint32
	calls   [callEpollWait + 1]struct {
		call, _ uint8
		flags   uint16
		_       uint32
	}
}

// waitArgument is struct io_uring_getevents_arg.
type waitArgument struct {
	mask     uint64
	maskSize uint32
	minimum  uint32
	timespec uint64 // an address
}

// timespec is struct __kernel_timespec.
type timespec struct{ seconds, nanoseconds int64 }

const (
	callClose     = 19
	callSend      = 26
	callReceive   = 27
	callEpollCtl  = 29
	callCommand   = 46
	callEpollWait = 59
	callSupported = 1 << 0

	commandSetOption = 3 // SOCKET_URING_OP_SETSOCKOPT

	entrySkipSuccess = 1 << 6

	setupDisabled     = 1 << 6
	setupSubmitAll    = 1 << 7
	setupCoopTaskrun  = 1 << 8
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
	setupNoSQArray    = 1 << 16

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	registerProbe  = 8
	registerEnable = 12

	offsetQueues = 0
	offsetCalls  = 0x10000000
)
