package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/toe-project/toe/internal/flock"
)

// Lock takes the lock that all cards of the user share. It is for a moment: to
// choose what must differ between cards.
func (d Dirs) Lock() (*flock.Lock, error) { return flock.Wait(filepath.Join(d.State, ".lock")) }

// Lock takes the card's lock, in a runtime folder made for that. It returns
// ErrRunning where another process holds it: the supervisor, or for a moment a
// command that changes or removes the card.
func (c *Card) Lock() (l *flock.Lock, err error) {
	for range 3 { // another process that removes the card takes the folder away
		if err = c.Paths.MakeRuntime(); err == nil {
			l, err = flock.Try(c.Paths.Lock())
		}
		if errors.Is(err, flock.ErrHeld) {
			return nil, ErrRunning
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return l, err
		}
	}
	return nil, err
}

// Running reports whether the card has a supervisor.
func (c *Card) Running() bool {
	_, held, err := flock.Owner(c.Paths.Lock())
	return err == nil && held
}

// CleanRuntime removes the files that belong to a running card. The logs stay:
// they say why it does not run.
func (c *Card) CleanRuntime() error {
	keep := map[string]bool{
		c.Paths.Log(): true, c.Paths.Log() + ".1": true, c.Paths.ConsoleLog(): true, c.Paths.ConsoleLog() + ".1": true,
		c.Paths.Lock(): true,
	}
	entries, err := os.ReadDir(c.Paths.Runtime)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(c.Paths.Runtime, e.Name())
		if !keep[path] {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}
