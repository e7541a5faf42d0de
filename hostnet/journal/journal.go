// Package journal keeps what a card changed on its host, so that it can be
// undone however the process that made the change ended.
//
// There is one way to change the host: Do writes the change down, makes it, and
// returns what undoes it. An entry names the card that made the change and the
// boot of the host that it was made in. It is undone by that card alone, and by
// a later boot only if the change outlives one.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/toe-project/toe/internal/atomicfile"
)

// Change is one kind of change of the host, with all that it takes to undo it
// from another process. Its exported fields are written as JSON.
type Change interface {
	// Make makes the change.
	Make() error
	// Undo undoes what Make did, all of it or a part, and nothing else: what is
	// gone, or was modified in the meantime, stays as it is and is no error.
	Undo() error
	// Lasts reports whether the change outlives a restart of the host.
	Lasts() bool
}

// Kinds are the changes that a journal may have, by the names that it gives
// them: each value is a pointer to a zero Change.
type Kinds map[string]Change

// Journal is the journal of one card.
type Journal struct {
	path, card, boot string
	kinds            Kinds
}

// entry is one change in the file.
type entry struct {
	ID     int             `json:"id"`
	Kind   string          `json:"kind"`
	Card   string          `json:"card"`
	Boot   string          `json:"boot"`
	Change json.RawMessage `json:"change"`
}

type content struct {
	Entries []entry `json:"entries"`
}

// Open returns the journal of a card in the file path, which need not exist.
func Open(path, card string, kinds Kinds) *Journal {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return &Journal{path: path, card: card, boot: strings.TrimSpace(string(boot)), kinds: kinds}
}

// writing is held while a journal is read and written again: ports are opened
// at the same time, and no entry of theirs may get lost. Of the processes that
// a card has only its supervisor writes, which holds the card's lock.
var writing sync.Mutex

// Do notes the change, makes it, and returns what undoes it and may be called
// more than once. A change that fails is undone before Do returns.
func (j *Journal) Do(c Change) (undo func() error, err error) {
	e, err := j.note(c)
	if err != nil {
		return nil, err
	}
	undo = func() error {
		if err := c.Undo(); err != nil {
			return err // the entry stays, for the next try
		}
		return j.forget(e.ID)
	}
	if err := c.Make(); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

func (j *Journal) note(c Change) (entry, error) {
	kind := ""
	for name, k := range j.kinds {
		if reflect.TypeOf(k) == reflect.TypeOf(c) {
			kind = name
		}
	}
	if kind == "" {
		return entry{}, fmt.Errorf("journal: %T: unknown kind of change", c)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return entry{}, fmt.Errorf("journal: %s: %w", kind, err)
	}
	writing.Lock()
	defer writing.Unlock()
	have, err := j.read()
	if err != nil {
		return entry{}, err
	}
	e := entry{ID: 1, Kind: kind, Card: j.card, Boot: j.boot, Change: data}
	for _, o := range have.Entries {
		e.ID = max(e.ID, o.ID+1)
	}
	have.Entries = append(have.Entries, e)
	return e, j.write(have)
}

// forget takes entries out of the file.
func (j *Journal) forget(ids ...int) error {
	writing.Lock()
	defer writing.Unlock()
	have, err := j.read()
	if err != nil {
		return err
	}
	before := len(have.Entries)
	gone := func(e entry) bool { return slices.Contains(ids, e.ID) }
	have.Entries = slices.DeleteFunc(have.Entries, gone)
	if len(have.Entries) == before && before > 0 {
		return nil
	}
	return j.write(have)
}

func (j *Journal) read() (c content, err error) {
	var keys map[string]json.RawMessage
	err = atomicfile.ReadJSON(j.path, &keys)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	for key := range keys {
		if key != "entries" { // its changes would be forgotten
			return c, fmt.Errorf("journal %s: %q: unknown key, written by another version of toe", j.path, key)
		}
	}
	return c, atomicfile.ReadJSON(j.path, &c)
}

// write replaces the file, and removes one without entries.
func (j *Journal) write(c content) error {
	if len(c.Entries) == 0 {
		return atomicfile.Remove(j.path)
	}
	return atomicfile.WriteJSON(j.path, c)
}

// Undo undoes what is left of the journal, the latest change first. What fails
// stays in the journal for the next try.
func (j *Journal) Undo() error {
	writing.Lock()
	have, err := j.read()
	writing.Unlock()
	if err != nil {
		return err
	}
	var done []int
	var errs []error
	for _, e := range slices.Backward(have.Entries) {
		if err := j.undo(e); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, e.ID)
	}
	return errors.Join(append(errs, j.forget(done...))...)
}

// undo undoes one entry, if this card made it and it is still there.
func (j *Journal) undo(e entry) error {
	c, err := j.decode(e)
	if err != nil {
		return err
	}
	if e.Card != j.card || e.Boot != j.boot && !c.Lasts() {
		return nil
	}
	return c.Undo()
}

func (j *Journal) decode(e entry) (Change, error) {
	zero, ok := j.kinds[e.Kind]
	if !ok {
		return nil, fmt.Errorf("journal %s: %q: unknown kind of change, made by another version of toe",
			j.path, e.Kind)
	}
	c := reflect.New(reflect.TypeOf(zero).Elem()).Interface().(Change)
	if err := json.Unmarshal(e.Change, c); err != nil {
		return nil, fmt.Errorf("journal %s: %s: %w", j.path, e.Kind, err)
	}
	return c, nil
}

// Lasting reports whether the journal has a change of this card that outlives a
// restart of the host.
func (j *Journal) Lasting() bool {
	writing.Lock()
	have, err := j.read()
	writing.Unlock()
	return err == nil && slices.ContainsFunc(have.Entries, func(e entry) bool {
		c, err := j.decode(e)
		return err == nil && e.Card == j.card && c.Lasts()
	})
}
