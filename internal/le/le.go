// Package le converts between the host's byte order and little endian, which virtio 1.x has in memory
// (virtio 1.2 section 1.4). Each function is its own inverse. On a little-endian host they compile to
// nothing, so that a load or store of a whole word, atomic or not, stays the one instruction it is.
package le

import (
	"math/bits"
	"runtime"
)

// big reports whether the host is big-endian. It is a constant, so that the compiler drops what is
// not taken. The ports are those of Go that are.
const big = runtime.GOARCH == "s390x" || runtime.GOARCH == "ppc64" || runtime.GOARCH == "mips" || runtime.GOARCH == "mips64"

// U16 converts 16 bits.
func U16(v uint16) uint16 {
	if big {
		return bits.ReverseBytes16(v)
	}
	return v
}

// U32 converts 32 bits.
func U32(v uint32) uint32 {
	if big {
		return bits.ReverseBytes32(v)
	}
	return v
}

// U64 converts 64 bits.
func U64(v uint64) uint64 {
	if big {
		return bits.ReverseBytes64(v)
	}
	return v
}
