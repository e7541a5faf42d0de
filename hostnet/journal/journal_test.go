package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/toe-project/toe/internal/atomicfile"
)

// world is a host whose only state is a set of words.
var (
	world   = map[string]bool{}
	worldMu sync.Mutex
)

type word struct {
	Word    string
	Durable bool
	Fails   bool
}

var errMake = errors.New("it cannot be made")

func (w *word) Make() error {
	worldMu.Lock()
	defer worldMu.Unlock()
	world[w.Word] = true
	if w.Fails {
		return errMake
	}
	return nil
}

func (w *word) Undo() error {
	worldMu.Lock()
	defer worldMu.Unlock()
	delete(world, w.Word)
	return nil
}

func (w *word) Lasts() bool { return w.Durable }

var words = Kinds{"word": &word{}}

func open(t *testing.T, path, card, boot string) *Journal {
	t.Helper()
	clear(world)
	j := Open(path, card, words)
	if boot != "" {
		j.boot = boot
	}
	return j
}

func TestEntries(t *testing.T) {
	for name, c := range map[string]struct {
		durable bool
		card    string // that undoes it
		boot    string // in which it is undone
		stays   bool   // on the host
	}{
		"the same boot":                            {card: "a"},
		"another boot, and the change went":        {card: "a", boot: "next", stays: true},
		"another boot, and the change lasts":       {durable: true, card: "a", boot: "next"},
		"another card":                             {card: "b", stays: true},
		"another card, and the change lasts":       {durable: true, card: "b", stays: true},
		"another card in another boot, it is lost": {card: "b", boot: "next", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.json")
			j := open(t, path, "a", "")
			if _, err := j.Do(&word{Word: "x", Durable: c.durable}); err != nil {
				t.Fatal(err)
			}
			again := Open(path, c.card, words)
			if c.boot != "" {
				again.boot = c.boot
			}
			for range 2 {
				if err := again.Undo(); err != nil {
					t.Fatal(err)
				}
			}
			if world["x"] != c.stays {
				t.Errorf("on the host: %v, want %v", world["x"], c.stays)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("the journal is still there")
			}
		})
	}
}

// What was noted and never made, by a process that was killed in between, is no
// trouble.
func TestKilledBeforeMake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	j := open(t, path, "a", "")
	if _, err := j.note(&word{Word: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := Open(path, "a", words).Undo(); err != nil {
		t.Error(err)
	}
}

func TestMakeThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	j := open(t, path, "a", "")
	if _, err := j.Do(&word{Word: "x", Fails: true}); !errors.Is(err, errMake) || world["x"] {
		t.Errorf("%v, on the host: %v", err, world)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the journal has it still")
	}
}

// A journal that cannot be written changes nothing on the host.
func TestNoJournalNoChange(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "nosuch", "journal.json"), "a", "")
	if _, err := j.Do(&word{Word: "x"}); err == nil || world["x"] {
		t.Errorf("%v, on the host: %v", err, world)
	}
}

// An entry of a later version stays, and says so.
func TestUnknownKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	j := open(t, path, "a", "")
	if _, err := j.Do(&word{Word: "x"}); err != nil {
		t.Fatal(err)
	}
	err := Open(path, "a", Kinds{}).Undo()
	if err == nil || !strings.Contains(err.Error(), "another version of toe") {
		t.Error(err)
	}
	if err := j.Undo(); err != nil || world["x"] {
		t.Errorf("%v, on the host: %v", err, world)
	}
}

// Ports are opened at the same time, and each notes what it makes.
func TestNoEntryIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	j := open(t, path, "a", "")
	const ports = 8
	undo := make([]func() error, ports)
	var wg sync.WaitGroup
	for i := range ports {
		wg.Go(func() {
			var err error
			if undo[i], err = j.Do(&word{Word: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var c content
	if err := atomicfile.ReadJSON(path, &c); err != nil || len(c.Entries) != ports {
		t.Fatalf("%d entries, %v; want %d", len(c.Entries), err, ports)
	}
	for i := range ports {
		wg.Go(func() {
			if err := undo[i](); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(path); err == nil || len(world) != 0 {
		t.Errorf("the journal is still there, or %v", world)
	}
}

func FuzzUndo(f *testing.F) {
	f.Add([]byte(`{"entries":[{"id":1,"kind":"word","card":"a","boot":"b","change":{"Word":"x"}}]}`))
	f.Add([]byte(`{"return_rules":[{"from":"10.116.0.1","table":7464000}]}`))
	f.Add([]byte(`{"entries":[{"kind":"word","card":"a","change":null},{"kind":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "journal.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = Open(path, "a", words).Undo()
	})
}
