package uml

import (
	"bytes"
	"encoding/binary"

	"github.com/toe-project/toe/internal/newc"
)

// probeWords is the output of the probe's program.
const probeWords = "toe-probe: a program ran"

// probeInitrd returns an initramfs of two entries: /dev/console for the program's output, and the
// program as /init.
func probeInitrd() []byte {
	var b bytes.Buffer
	_ = newc.Write(&b, []newc.File{ // a bytes.Buffer takes all
		newc.Dir("/dev", 0o755),
		newc.CharDevice("/dev/console", 0o600, 5, 1),
		newc.Regular("/init", 0o755, probeProgram()),
	})
	return b.Bytes()
}

// probeProgram is write(1, words), reboot(power off), and then pause in a loop.
func probeProgram() []byte {
	words := []byte(probeWords + "\n")
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, SYS_write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 40, 0, 0, 0, // lea rsi, [rip+40]: the words
		0xba, byte(len(words)), 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 169, 0, 0, 0, // mov eax, SYS_reboot
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
		0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, LINUX_REBOOT_CMD_POWER_OFF
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // back to pause
	}
	// The words follow the code. The lea is relative to its end, offset 17.
	binary.LittleEndian.PutUint32(code[13:], uint32(len(code)-17))
	return program(append(code, words...))
}
