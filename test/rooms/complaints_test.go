package rooms

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryComplaintHasATest: each row of the table of complaints names tests, and they exist.
func TestEveryComplaintHasATest(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| complaint | tests |\n|---|---|\n")
	if !ok {
		t.Fatal("docs/reliability.md has no table of complaints")
	}
	const complaints = 13
	rows := strings.Split(table, "\n")
	for i := range complaints {
		if i >= len(rows) || !strings.HasPrefix(rows[i], fmt.Sprintf("| %d. ", i+1)) {
			t.Fatalf("complaint %d has no row", i+1)
		}
		named := regexp.MustCompile("`([a-z0-9/]+)` (Test[A-Za-z0-9]+)").FindAllStringSubmatch(rows[i], -1)
		if len(named) == 0 {
			t.Errorf("complaint %d names no test", i+1)
		}
		for _, n := range named {
			if !hasTest(t, filepath.Join(root, n[1]), n[2]) {
				t.Errorf("complaint %d: package %s has no %s", i+1, n[1], n[2])
			}
		}
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t ") {
			return true
		}
	}
	return false
}
