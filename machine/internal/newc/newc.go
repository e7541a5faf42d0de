// Package newc writes the few files of a probe's initramfs.
package newc

import (
	"bytes"
	"fmt"
)

// Archive is an initramfs in newc format (kernel:
// driver-api/early-userspace/buffer-format).
type Archive struct{ b bytes.Buffer }

// File adds an entry; mode has the type bits of stat(2).
func (a *Archive) File(name string, mode int, data []byte) { a.entry(name, mode, 0, 0, data) }

// Device adds a character device.
func (a *Archive) Device(name string, major, minor int) { a.entry(name, 0o020600, major, minor, nil) }

// Bytes ends the archive and returns it.
func (a *Archive) Bytes() []byte {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.b.Bytes()
}

// entry is a header of ASCII hexadecimal, name and data each padded to 4 bytes.
func (a *Archive) entry(name string, mode, major, minor int, data []byte) {
	fmt.Fprintf(&a.b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	a.b.WriteString(name + "\x00")
	a.pad()
	a.b.Write(data)
	a.pad()
}

func (a *Archive) pad() {
	for a.b.Len()%4 != 0 {
		a.b.WriteByte(0)
	}
}
