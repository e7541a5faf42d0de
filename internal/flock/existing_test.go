package flock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShareAndExclude(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := Share(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: %v, want ErrNotExist", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	one, err := Share(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Share(dir)
	if err != nil {
		t.Fatalf("a second share: %v", err)
	}
	one.Release()
	if _, err := Exclude(dir); !errors.Is(err, ErrHeld) {
		t.Errorf("with a share left: %v, want ErrHeld", err)
	}
	two.Release()
	last, err := Exclude(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Share(dir); !errors.Is(err, ErrHeld) {
		t.Errorf("excluded: %v, want ErrHeld", err)
	}
	last.Release()
}

// A directory that was removed and made again is another one.
func TestLockOfARemovedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := lockExisting(f, unix.LOCK_SH); err == nil {
		t.Error("a lock of the removed directory")
	}
}
