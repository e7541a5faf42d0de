package nano

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// Key authenticates the messages of one life of a card. It reaches the card in its initramfs and
// never crosses the link.
type Key [16]byte

// NewKey returns a random key.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// code is SipHash-2-4 (Aumasson and Bernstein, 2012): 64 bits that only the key's holders can make.
func (k Key) code(m []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:])
	v := [4]uint64{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	size := len(m)
	for ; len(m) >= 8; m = m[8:] {
		absorb(&v, binary.LittleEndian.Uint64(m))
	}
	var last [8]byte
	copy(last[:], m)
	last[7] = byte(size)
	absorb(&v, binary.LittleEndian.Uint64(last[:]))
	v[2] ^= 0xff
	mix(&v, 4)
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func absorb(v *[4]uint64, word uint64) {
	v[3] ^= word
	mix(v, 2)
	v[0] ^= word
}

func mix(v *[4]uint64, rounds int) {
	rotate := bits.RotateLeft64
	for range rounds {
		v[0] += v[1]
		v[1] = rotate(v[1], 13) ^ v[0]
		v[0] = rotate(v[0], 32)
		v[2] += v[3]
		v[3] = rotate(v[3], 16) ^ v[2]
		v[0] += v[3]
		v[3] = rotate(v[3], 21) ^ v[0]
		v[2] += v[1]
		v[1] = rotate(v[1], 17) ^ v[2]
		v[2] = rotate(v[2], 32)
	}
}
