package store

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/card/spec"
)

// testDirs are folders of the test's own, short enough for sockets.
func testDirs(t testing.TB) Dirs {
	dir, err := os.MkdirTemp("", "toe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Dirs{State: filepath.Join(dir, "s"), Runtime: filepath.Join(dir, "r"), Cache: filepath.Join(dir, "c")}
}

func testCard(t testing.TB, text string) *Card {
	spec, err := spec.Parse("card.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	spec.Name = cmp.Or(spec.Name, "card0")
	c, err := testDirs(t).Create(spec, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
