package le

import (
	"encoding/binary"
	"testing"
)

func TestLittleEndian(t *testing.T) {
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	if v := U16(binary.NativeEndian.Uint16(b)); v != 0x0201 {
		t.Errorf("16 bits: %#x", v)
	}
	if v := U32(binary.NativeEndian.Uint32(b)); v != 0x04030201 {
		t.Errorf("32 bits: %#x", v)
	}
	if v := U64(binary.NativeEndian.Uint64(b)); v != 0x0807060504030201 {
		t.Errorf("64 bits: %#x", v)
	}
}
