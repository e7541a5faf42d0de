package link

import (
	"fmt"
	"os"
)

// Renew replaces the socket of a stream device whose peer is gone. The pump that has the old socket
// is killed, and the next pump gets the new one. To the card this is the same as any death of a
// pump. Renew takes ownership of the files, also when it returns an error.
func (k *Keeper) Renew(files []*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev := &k.net.dev
	if k.closed || !dev.Stream || len(files) != len(dev.Files) {
		closeAll(files)
		return fmt.Errorf("device %s: %d files for it, want %d for a stream that is open", k.name, len(files), len(dev.Files))
	}
	closeAll(dev.Files)
	copy(dev.Files, files)
	if k.pump != nil {
		k.pump.process.Kill()
	}
	return nil
}
