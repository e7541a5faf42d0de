// Package emulated is for tests that test/foreign runs under QEMU's user-mode emulation.
package emulated

import (
	"os"
	"os/exec"
)

// Env names the emulator, such as qemu-s390x-static. Its value is empty where none is needed.
const Env = "TOE_TEST_EMULATOR"

// Command is exec.Command for a program of the test's own architecture. Without binfmt_misc the
// kernel cannot start it, so it is an argument of the emulator.
func Command(name string, args ...string) *exec.Cmd {
	if emulator := os.Getenv(Env); emulator != "" {
		return exec.Command(emulator, append([]string{name}, args...)...)
	}
	return exec.Command(name, args...)
}
