package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// copies sends a folder to the card and gets it back.
func (j *journey) copies(t *testing.T) {
	here := t.TempDir()
	data := bytes.Repeat([]byte("every byte counts\n"), 100_000)
	if err := os.MkdirAll(filepath.Join(here, "tree", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(here, "tree", "sub", "data"), data, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/data", filepath.Join(here, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	j.run(t, quick, 1, "cp", filepath.Join(here, "tree"), "card0:/tmp") // without -r
	j.run(t, quick, 0, "cp", "-r", filepath.Join(here, "tree"), "card0:/tmp")
	if out := j.run(t, quick, 0, "ssh", "--", "stat -c %a /tmp/tree/sub/data; ls -A /tmp/tree/sub").out; out != "640\ndata\n" {
		t.Errorf("on the card: %q; want the mode, and the file alone", out)
	}
	j.run(t, quick, 0, "cp", "-r", "card0:/tmp/tree", filepath.Join(here, "back"))
	got, err := os.ReadFile(filepath.Join(here, "back", "link"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, want the %d that were sent: %v", len(got), len(data), err)
	}
	j.run(t, quick, 0, "ssh", "--", "ln -s /etc/passwd /tmp/tree/out")
	r := j.run(t, quick, 1, "cp", "-r", "card0:/tmp/tree", filepath.Join(here, "again"))
	if _, err := os.Lstat(filepath.Join(here, "again", "out")); err == nil || !strings.Contains(r.err, "stays in the copied directory") {
		t.Errorf("a link out of the directory: %v; %s", err, r.err)
	}
	j.run(t, quick, 0, "ssh", "--", "rm -r /tmp/tree")
}

// events has the start of the card in its history.
func (j *journey) events(t *testing.T) {
	var text []string
	for line := range strings.Lines(j.run(t, quick, 0, "events", "--json").out) {
		var e struct{ Text string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Text == "" {
			t.Fatalf("events --json: %q: %v", line, err)
		}
		text = append(text, e.Text)
	}
	if all := strings.Join(text, "\n"); !strings.Contains(all, "machine: ready") {
		t.Errorf("no start in the history: %q", all)
	}
}
