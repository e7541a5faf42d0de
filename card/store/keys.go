package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/atomicfile"
)

// EnsureKeys makes keys for a card that has none: one made by hand, of a
// card.yaml and nothing else.
func (c *Card) EnsureKeys() error {
	all, err := c.Dirs.Lock()
	if err != nil {
		return err
	}
	defer all.Release()
	return c.makeKeys()
}

// makeKeys makes the card's keys where it has none yet. Keys that cannot be read
// are an error: new ones would be another card's to every known_hosts file.
func (c *Card) makeKeys() error {
	dir := c.Paths.Keys()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := control.LoadKeys(dir); err != nil {
			return fmt.Errorf("%w; fix: put the file back, or remove %s for new keys", err, dir)
		}
		return nil
	}
	keys, err := control.GenerateKeys()
	if err != nil {
		return err
	}
	// All or none: a card whose making was cut short has no keys.
	next := dir + ".new"
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := errors.Join(makeLoginKey(next), keys.Save(next)); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is empty
		return err
	}
	if err := os.Rename(next, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(c.Paths.State)
}
