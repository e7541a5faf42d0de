package agent

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestModulesAreTolerant: a missing list is none, and a module that does not
// load is said by name and does not keep the others from being tried.
func TestModulesAreTolerant(t *testing.T) {
	dir := t.TempDir()
	log := NewLog(io.Discard)
	loadModules(log, dir, earlyList)
	if len(log.lines) != 0 {
		t.Errorf("without a list: %v", log.lines)
	}
	release := filepath.Join(dir, kernel())
	if err := os.Mkdir(release, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(release, "bad.ko"), []byte("no module"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, earlyList), []byte("# comment\n\ngone.ko\nbad.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	loadModules(log, dir, earlyList)
	var all []string
	for _, l := range log.lines {
		all = append(all, l.Text)
	}
	if s := strings.Join(all, "\n"); len(all) != 3 || !strings.Contains(s, "gone.ko") || !strings.Contains(s, "bad.ko: finit_module") {
		t.Errorf("log:\n%s", s)
	}
}
