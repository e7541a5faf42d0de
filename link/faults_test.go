package link

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that the specification names for a fault of others is there.
func TestFaultsOfOthersHaveTests(t *testing.T) {
	spec, err := os.ReadFile("../docs/link.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(spec), "## 10. What has gone wrong in others")
	if !ok {
		t.Fatal("docs/link.md has no such section")
	}
	rows := 0
	named := regexp.MustCompile("`([a-z]+)\\.((?:Test|Fuzz)[A-Za-z]+)`")
	for _, row := range strings.Split(table, "\n") {
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| fault |") {
			continue
		}
		rows++
		tests := named.FindAllStringSubmatch(row, -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", row)
		}
		for _, n := range tests {
			if !hasTest(t, n[1], n[2]) {
				t.Errorf("%s has no %s: %s", n[1], n[2], row)
			}
		}
	}
	if rows != 18 {
		t.Errorf("%d faults, want 18", rows)
	}
}

// hasTest looks for a test in one of the packages of the link.
func hasTest(t *testing.T, name, test string) bool {
	t.Helper()
	dir := name
	if name == "link" {
		dir = "."
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
