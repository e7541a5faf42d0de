// Package rooms checks that the packages stand in the order that
// docs/architecture.md gives them.
package rooms

import (
	"errors"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	module = "github.com/toe-project/toe/"
	root   = "../.."
	page   = root + "/docs/architecture.md"
)

// rooms reads the table of the page: the row of each room, from the top.
func rooms(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| room | what it is |\n|---|---|\n")
	if !ok {
		t.Fatalf("%s has no table of rooms", page)
	}
	rows := map[string]int{}
	for n, line := range strings.Split(table, "\n") {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cell := strings.Split(line, "|")[1]
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			rows[strings.TrimSuffix(name[1], "/…")] = n
		}
	}
	if len(rows) < 20 {
		t.Fatalf("%s names %d rooms: %v", page, len(rows), rows)
	}
	return rows
}

// roomOf returns the room of a package: itself, or the nearest parent.
func roomOf(pkg string, rows map[string]int) (room string, ok bool) {
	for room = pkg; room != "."; room = filepath.Dir(room) {
		if _, ok := rows[room]; ok {
			return room, true
		}
	}
	return "", false
}

// TestArrowsPointDown: a room imports only rooms of its own row and below, and
// each package has a room.
func TestArrowsPointDown(t *testing.T) {
	rows := rooms(t)
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		pkg, _ := filepath.Rel(root, dir)
		if name := d.Name(); pkg != "." && strings.HasPrefix(name, ".") || name == "testdata" || pkg == "test" {
			return fs.SkipDir
		}
		p, err := build.ImportDir(dir, 0)
		if none := (*build.NoGoError)(nil); errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return err
		}
		from, ok := roomOf(pkg, rows)
		if !ok {
			t.Errorf("%s is in no room of %s", pkg, page)
			return nil
		}
		seen[from] = true
		for _, path := range p.Imports {
			in, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			if to, ok := roomOf(in, rows); ok && rows[to] < rows[from] {
				t.Errorf("%s imports %s, which is above it", pkg, in)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rows {
		if !seen[room] {
			t.Errorf("%s names %s, where there is no package", page, room)
		}
	}
}

// TestSpecificationNeedsNoHost: card.yaml can be read where there is no Linux
// network, by an editor or a fleet.
func TestSpecificationNeedsNoHost(t *testing.T) {
	var visit func(path string)
	seen := map[string]bool{}
	visit = func(path string) {
		in, ours := strings.CutPrefix(path, module)
		switch {
		case seen[path]:
			return
		case strings.Contains(path, "netlink"), ours && (strings.HasPrefix(in, "machine") || strings.HasPrefix(in, "firmware") || strings.HasPrefix(in, "hostnet")):
			t.Errorf("card/spec imports %s", path)
		}
		seen[path] = true
		if !ours {
			return
		}
		p, err := build.ImportDir(filepath.Join(root, in), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, next := range p.Imports {
			visit(next)
		}
	}
	visit(module + "card/spec")
	if len(seen) < 5 {
		t.Errorf("looked at %d packages only", len(seen))
	}
}
