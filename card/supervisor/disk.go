package supervisor

import (
	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/link"
)

// FileDisk serves the file at path as a disk of the card, on the device's socket. It locks the file
// until Close. The worker runs and the socket listens when FileDisk returns. Event is called for what
// happens to the disk.
func FileDisk(d Device, path string, event func(text string)) (*disk.Keeper, error) {
	f, err := disk.Open(path, false)
	if err != nil {
		return nil, err
	}
	return disk.NewKeeper(disk.Disk{Name: d.Name, Socket: d.Socket, File: f},
		disk.Options{Event: func(e link.Event) { event(e.Text) }})
}
