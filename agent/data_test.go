package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/flash"
)

var errLost = errors.New("power loss")

// steps of a test: the second renames a file, and its script takes that back.
var testSteps = []dataStep{
	{func(dir string) error { return os.WriteFile(filepath.Join(dir, "conf"), []byte("x"), 0o600) }, "rm -f conf"},
	{func(dir string) error {
		err := os.Rename(filepath.Join(dir, "conf"), filepath.Join(dir, "conf.d"))
		if errors.Is(err, os.ErrNotExist) {
			return nil // done before
		}
		return err
	}, "[ ! -e conf.d ] || mv conf.d conf"},
}

func runIn(dir string) func(string) error {
	return func(script string) error {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		return cmd.Run()
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "undo" {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// Data goes forwards with a new system, and back with an older one that does not know the step.
func TestMigrateForwardsAndBack(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		steps int
		want  string
	}{{1, "conf version"}, {2, "conf.d version"}, {2, "conf.d version"}, {1, "conf version"}, {2, "conf.d version"}, {0, "version"}} {
		if err := migrate(dir, testSteps[:c.steps], runIn(dir)); err != nil {
			t.Fatalf("to %d steps: %v", c.steps, err)
		}
		if got := listing(t, dir); got != c.want {
			t.Errorf("with %d steps: %s, want %s", c.steps, got, c.want)
		}
		if v, err := dataVersion(dir); v != c.steps || err != nil {
			t.Errorf("version %d, %v; want %d", v, err, c.steps)
		}
	}
}

// A step that fails, or is repeated after a power loss, and the same on the way back.
func TestMigrateBrokenOff(t *testing.T) {
	dir := t.TempDir()
	broken := append(testSteps[:1:1], dataStep{func(dir string) error {
		return errors.Join(testSteps[1].up(dir), errLost)
	}, testSteps[1].back})
	if err := migrate(dir, broken, runIn(dir)); !errors.Is(err, errLost) {
		t.Fatalf("%v", err)
	}
	if v, _ := dataVersion(dir); v != 1 {
		t.Errorf("version %d after a step that failed", v)
	}
	if err := migrate(dir, testSteps, runIn(dir)); err != nil {
		t.Fatal(err)
	}
	lost := func(script string) error { return errors.Join(runIn(dir)(script), errLost) }
	if err := migrate(dir, testSteps[:1], lost); !errors.Is(err, errLost) {
		t.Fatalf("%v", err)
	}
	if err := migrate(dir, testSteps[:1], runIn(dir)); err != nil || listing(t, dir) != "conf version" {
		t.Errorf("%v: %s", err, listing(t, dir))
	}
}

func TestMigrateRefuses(t *testing.T) {
	for text, want := range map[string]string{"x": "want a number", "-1": "want a number", "1001": "want a number", "5": "there is no way back"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "version"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := migrate(dir, testSteps, runIn(dir)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("version %s: %v, want %q", text, err, want)
		}
	}
}

func TestIsBlank(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	for at, want := range map[int]bool{-1: true, 1080: false, 60000: false} {
		b := make([]byte, 128<<10)
		if at >= 0 {
			b[at] = 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := isBlank(path); got != want {
			t.Errorf("a byte at %d: %v, want %v", at, got, want)
		}
	}
	if isBlank(path + ".missing") {
		t.Error("a device that is missing is blank")
	}
}

// The file system of the data is made once. One that a power loss has left unfinished is made again,
// whatever the partition has in it; one that is damaged later never is.
func TestMakeData(t *testing.T) {
	for name, c := range map[string]struct {
		first byte // of the partition
		env   flash.Env
		made  bool
	}{
		"blank":                  {0, flash.Env{"BOOT_ORDER": "A B"}, true},
		"in use, or damaged":     {'x', flash.Env{"BOOT_ORDER": "A B"}, false},
		"mkfs was interrupted":   {'x', flash.Env{"BOOT_ORDER": "A B", "DATA": "making"}, true},
		"interrupted at the end": {0, flash.Env{"BOOT_ORDER": "A B", "DATA": "making"}, true},
	} {
		r := newTrial(t, 1)
		r.write(c.env)
		device := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(device, append([]byte{c.first}, make([]byte, 1<<20)...), 0o600); err != nil {
			t.Fatal(err)
		}
		made := false
		err := makeData(device, r.open, func() error {
			if r.read()["DATA"] != "making" {
				t.Errorf("%s: mkfs begins without a mark", name)
			}
			made = true
			return nil
		})
		if err != nil || made != c.made || r.read()["DATA"] != "" {
			t.Errorf("%s: made %v, %v, %v", name, made, r.read(), err)
		}
		if err := makeData(device, r.open, func() error { return errLost }); c.first == 0 && !errors.Is(err, errLost) {
			t.Errorf("%s: %v", name, err)
		}
		if c.first == 0 && r.read()["DATA"] != "making" {
			t.Errorf("%s: an mkfs that failed left no mark", name)
		}
	}
}
