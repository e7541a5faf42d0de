// Package storetest makes cards for tests.
package storetest

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
)

// Dirs are folders of the test's own, short enough for the paths of sockets.
func Dirs(t testing.TB) store.Dirs {
	dir, err := os.MkdirTemp("", "toe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return store.Dirs{State: filepath.Join(dir, "s"), Runtime: filepath.Join(dir, "r"), Cache: filepath.Join(dir, "c")}
}

// Card is a card in Dirs with the card.yaml text.
func Card(t testing.TB, text string) *store.Card {
	s, err := spec.Parse("card.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s.Name = cmp.Or(s.Name, spec.DefaultName)
	c, err := Dirs(t).Create(s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
