package machine

import (
	"fmt"
	"os"
)

// Disk is one disk of the card, a virtio-blk device whose back end is behind a vhost-user socket.
// Disks appear on the card in the order of Spec.Disks: the first is /dev/vda. The back end decides
// the size and whether the disk is read-only.
type Disk struct {
	Name   string // for messages, such as "flash"
	Socket string // the path that the back end listens on
}

// CheckDisks rejects disks without a socket, which would show only as a dead card.
func CheckDisks(disks []Disk) error {
	for _, d := range disks {
		if err := checkSocket(d.Socket); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}

// checkSocket returns an error unless path is a socket.
func checkSocket(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("vhost-user socket: %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s has mode %v, want a vhost-user socket", path, st.Mode())
	}
	return nil
}
