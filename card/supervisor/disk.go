package supervisor

import (
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/link"
)

// FileDisk serves the file at path as a disk of the card, on the device's socket. It locks the file
// until Close. The worker runs and the socket listens when FileDisk returns. Event is called for what
// happens to the disk.
func FileDisk(d Device, path string, event func(text string)) (DiskKeeper, error) {
	f, err := disk.Open(path, false)
	if err != nil {
		return nil, err
	}
	k, err := disk.NewKeeper(disk.Disk{Name: d.Name, Socket: d.Socket, File: f},
		disk.Options{Event: func(e link.Event) { event(e.Text) }})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// reportDisk adds what is known of the card's disk. w.mu is held.
func (w *world) reportDisk(st *status.Status) {
	if k := w.flash.keeper; k != nil {
		st.Disks = []status.Disk{{Name: flashName, Bytes: k.Size(), WorkerPID: k.WorkerPID(), Stats: k.Stats()}}
	}
}

// judgeDisk makes a card degraded whose disk has lost what the card had written.
func (w *world) judgeDisk() {
	if k := w.flashNow().keeper; k != nil && k.Stats().Lost > 0 {
		w.board.trouble(flashName, "a flush to the host's disk failed, and the card's disk refuses writes; "+
			"fix: look at the disk of the host, then `toe down` and `toe up`")
	}
}
