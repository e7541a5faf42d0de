package link

import (
	"fmt"
	"os"
)

// Renew gives a stream device another socket in place of one whose other side
// is gone. The pump that has the old one is ended; the next gets the new one, and
// the card sees no more of it than of any pump's end. The files are the keeper's,
// also when it returns an error.
func (k *Keeper) Renew(files []*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || !k.dev.Stream || len(files) != len(k.dev.Files) {
		closeAll(files)
		return fmt.Errorf("device %s: %d files for it, want %d for a stream that is open", k.dev.Name, len(files), len(k.dev.Files))
	}
	closeAll(k.dev.Files)
	copy(k.dev.Files, files)
	if k.pump != nil {
		k.pump.process.Kill()
	}
	return nil
}
