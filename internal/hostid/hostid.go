// Package hostid distinguishes this host from others, for addresses that must differ between the
// hosts of one network.
package hostid

import (
	"bytes"
	"crypto/sha256"
	"os"
)

// machineID is the file of machine-id(5).
var machineID = "/etc/machine-id"

// ID returns the identity of this host: its machine id, else its name. It is
// empty where the host has neither.
func ID() []byte {
	b, _ := os.ReadFile(machineID)
	if b = bytes.TrimSpace(b); len(b) > 0 {
		return b
	}
	name, _ := os.Hostname()
	return []byte(name)
}

// Hash returns a hash of this host and of words that tell its things apart. It
// is the same at every call, and does not show the machine id, as machine-id(5)
// asks.
func Hash(words ...string) [sha256.Size]byte {
	h := sha256.New()
	write := func(b []byte) {
		h.Write(b)
		h.Write([]byte{0})
	}
	write([]byte("toe"))
	write(ID())
	for _, w := range words {
		write([]byte(w))
	}
	return [sha256.Size]byte(h.Sum(nil))
}
