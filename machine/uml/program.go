package uml

import (
	"bytes"
	"encoding/binary"
)

// program returns an ELF64 file for amd64 with one segment, body, which is executed from its start.
func program(body []byte) []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(body))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), // ET_EXEC, EM_X86_64
		uint64(base + headers), uint64(64), uint64(0), uint32(0), // entry, phoff, shoff, flags
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// PT_LOAD, R+X
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes all
	}
	b.Write(body)
	return b.Bytes()
}

// rebootStatus is the exit status of a card that rebooted. The kernel itself exits with 0, with 1
// and, after a panic, with 127.
const rebootStatus = 86

// rebootProgram is exit_group(rebootStatus).
func rebootProgram() []byte {
	return program([]byte{
		0xb8, 231, 0, 0, 0, // mov eax, SYS_exit_group
		0xbf, rebootStatus, 0, 0, 0, // mov edi, rebootStatus
		0x0f, 0x05, // syscall
	})
}
