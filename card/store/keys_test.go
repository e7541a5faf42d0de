package store

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Keys are made where there are none. Keys that cannot be read are an error that
// names the file, and are not replaced: the card would be another one for its
// users.
func TestKeysAreMadeOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, keys, file string)
		made bool
	}{
		{"there", func(*testing.T, string, string) {}, false},
		{"no folder", func(t *testing.T, keys, _ string) { must(t, os.RemoveAll(keys)) }, true},
		{"empty folder", func(t *testing.T, keys, _ string) {
			must(t, os.RemoveAll(keys))
			must(t, os.Mkdir(keys, 0o700))
		}, true},
		{"one is missing", func(t *testing.T, _, file string) { must(t, os.Remove(file)) }, false},
		{"one is a folder", func(t *testing.T, _, file string) {
			must(t, os.Remove(file))
			must(t, os.Mkdir(file, 0o700))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			card := testCard(t, "")
			keys := card.Paths.Keys()
			file := filepath.Join(keys, "client.key")
			if _, err := os.Stat(file); err != nil {
				t.Fatal(err)
			}
			before := contents(t, keys)
			c.harm(t, keys, file)
			harmed := contents(t, keys)
			err := card.EnsureKeys()
			after := contents(t, keys)
			switch {
			case c.made:
				if err != nil || len(after) != len(before) || after["client.key"] == before["client.key"] {
					t.Errorf("%v, %d files; want new keys", err, len(after))
				}
			case c.name == "there":
				if err != nil || !maps.Equal(before, after) {
					t.Errorf("%v; want the same keys", err)
				}
			default:
				if err == nil || !strings.Contains(err.Error(), "client.key") {
					t.Errorf("%v; want an error that names %s", err, file)
				}
				if !maps.Equal(harmed, after) {
					t.Error("the keys were changed")
				}
			}
			entries, _ := os.ReadDir(card.Paths.State)
			if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".new-") }) {
				t.Errorf("left over: %v", entries)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		data, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		out[e.Name()] = string(data)
	}
	return out
}
