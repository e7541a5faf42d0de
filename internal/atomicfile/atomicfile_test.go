package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteLeavesNoHalfFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"one", "two"} {
		if err := Write(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v; want mode 0640", fi.Mode(), err)
	}
	if err := Write(filepath.Join(dir, "no", "f"), nil, 0o600); err == nil {
		t.Error("no error for a folder that does not exist")
	}
	full := errors.New("disk full")
	err := WriteFunc(path, 0o600, func(w io.Writer) error {
		_, _ = w.Write([]byte("half"))
		return full
	})
	if !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
	if got, _ := os.ReadFile(path); string(got) != "two" {
		t.Errorf("after a failed write: %q, want %q", got, "two")
	}
	if got := names(t, dir); !slices.Equal(got, []string{"f"}) {
		t.Errorf("left over: %v", got)
	}
}

func TestSymlinkReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "current")
	for _, target := range []string{"one", "two"} {
		if err := Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); got != target {
			t.Errorf("%q, %v; want %q", got, err, target)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"current"}) {
		t.Errorf("left over: %v", got)
	}
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is gone already
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var got []int
	if err := ReadJSON(path, &got); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want ErrNotExist", err)
	}
	if err := WriteJSON(path, []int{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err != nil || !slices.Equal(got, []int{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
}

// A slow writer (an image of 80 MB on a slow disk, an fsync of minutes) is not a killed one.
func TestSweepSparesALiveWriter(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	err := WriteFunc(path, 0o600, func(w io.Writer) error {
		files, _ := filepath.Glob(filepath.Join(dir, unfinished+"*"))
		if len(files) != 1 {
			t.Fatalf("%d unfinished files, want 1", len(files))
		}
		old := time.Now().Add(-2 * unfinishedFor)
		if err := os.Chtimes(files[0], old, old); err != nil {
			return err
		}
		Sweep(dir)
		_, err := io.WriteString(w, "slow")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "slow" {
		t.Errorf("%q, want %q", got, "slow")
	}
}

// What a killed writer left goes; what is being written stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * unfinishedFor)
	for _, name := range []string{unfinished + "old", unfinished + "young", "old"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{unfinished + "old", "old"} {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	Sweep(dir)
	if got, want := names(t, dir), []string{unfinished + "young", "old"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// A power loss leaves the old file or the new one: the content is synced before
// the rename, and the folder after each change of it.
func TestChangesAreSynced(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(path string) error
		content bool // has to be synced before
	}{
		"write":   {func(path string) error { return Write(path, []byte("new"), 0o600) }, true},
		"symlink": {func(path string) error { return Symlink("new", path) }, false},
		"remove":  {Remove, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			old, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			var content, folder bool
			t.Cleanup(func() { sync = (*os.File).Sync })
			sync = func(f *os.File) error {
				now, err := os.Lstat(path)
				changed := err != nil || !os.SameFile(old, now)
				if f.Name() == dir {
					folder = changed
				} else {
					content = !changed
				}
				return f.Sync()
			}
			if err := c.change(path); err != nil {
				t.Fatal(err)
			}
			if content != c.content {
				t.Errorf("content synced before the change: %v, want %v", content, c.content)
			}
			if !folder {
				t.Error("the folder is not synced after the change")
			}
		})
	}
}
