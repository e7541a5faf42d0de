// Package store is what a card keeps on its host: folders, lock, specification,
// keys, addresses. It changes nothing of the host but its own files.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/toe-project/toe/card/spec"
)

// ErrRunning: the card has a supervisor. Talk to it, or take the card down.
var ErrRunning = errors.New("the card is running")

// ErrNoCard: no card has this name. `toe up NAME` makes one.
var ErrNoCard = errors.New("no such card")

// Card is a card that exists: it has a state folder with a card.yaml. The other
// files are read when they are asked for.
type Card struct {
	Name  string
	Spec  spec.Spec
	Paths Paths
	Dirs  Dirs
}

// Open reads a card. It returns ErrNoCard where there is none.
func (d Dirs) Open(name string) (*Card, error) {
	if err := spec.CheckName(name); err != nil {
		return nil, err
	}
	c := &Card{Name: name, Paths: d.Card(name), Dirs: d}
	data, err := os.ReadFile(c.Paths.Spec())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("card %s: %w; `toe up %s` makes it", name, ErrNoCard, name)
	}
	if err != nil {
		return nil, err
	}
	if c.Spec, err = spec.Parse(c.Paths.Spec(), data); err != nil {
		return nil, err
	}
	c.Spec.Name = name
	return c, nil
}

// Create makes a card: its folder, its specification and its keys. The public
// keys in home/.ssh may log in to it. A card that exists keeps its keys and gets
// the new specification.
func (d Dirs) Create(want spec.Spec, home string) (*Card, error) {
	if err := spec.CheckName(want.Name); err != nil {
		return nil, err
	}
	c := &Card{Name: want.Name, Spec: want, Paths: d.Card(want.Name), Dirs: d}
	if err := os.MkdirAll(d.State, 0o755); err != nil {
		return nil, err
	}
	// Two processes that make the same card at once must not mix their keys.
	all, err := d.Lock()
	if err != nil {
		return nil, err
	}
	defer all.Release()
	if err := privateDir(c.Paths.State); err != nil {
		return nil, err
	}
	if c.Spec.SSH.AuthorizedKeys == nil {
		c.Spec.SSH.AuthorizedKeys = userKeys(home)
	}
	if err := c.makeKeys(); err != nil {
		return nil, err
	}
	// The specification comes last: a folder without one is no card.
	return c, c.SaveSpec()
}

// List returns the names of the cards that exist, sorted.
func (d Dirs) List() ([]string, error) {
	entries, err := os.ReadDir(d.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if spec.CheckName(e.Name()) != nil {
			continue
		}
		if _, err := os.Stat(d.Card(e.Name()).Spec()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
