// Package atomicfile replaces files whole or not at all: write, fsync, rename,
// fsync of the folder. A reader sees the old content or the new one, and a power
// loss leaves one of both.
package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// unfinished begins the names of files that are being written.
const unfinished = ".new-"

// unfinishedFor is the age from which an unfinished file without a writer is one that a killed
// process left. A writer locks its file just after it has made it.
const unfinishedFor = time.Minute

// sync is fsync(2). A test watches its calls.
var sync = (*os.File).Sync

// Write replaces the content of path. The error names path.
func Write(path string, data []byte, mode fs.FileMode) error {
	return WriteFunc(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFunc is Write for content that write produces.
func WriteFunc(path string, mode fs.FileMode, write func(io.Writer) error) error {
	return Make(path, mode, func(f *os.File) error { return write(f) })
}

// Make is Write for content that write puts into the file at any offset.
func Make(path string, mode fs.FileMode, write func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, unfinished+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	// The lock tells Sweep that the writer lives. A file system without locks has only the age.
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	err = write(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = SyncDir(dir)
	}
	return err
}

// Symlink replaces path by a symbolic link to target.
func Symlink(target, path string) error {
	dir := filepath.Dir(path)
	tmp := filepath.Join(dir, fmt.Sprintf("%s%d-%s", unfinished, os.Getpid(), filepath.Base(path)))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(dir)
}

// Remove removes path for good: the folder is synced. A file that does not
// exist is no error.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes what was created, renamed and removed in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return sync(d)
}

// WriteJSON replaces path, mode 0600, by v as indented JSON.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return Write(path, append(data, '\n'), 0o600)
}

// ReadJSON reads path into v. The error is fs.ErrNotExist where there is no file.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Sweep removes from dir what writers left that were killed. It is housekeeping:
// a failure costs disk space only.
func Sweep(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, f := range files {
		if fi, err := os.Lstat(f); err == nil && time.Since(fi.ModTime()) > unfinishedFor && !written(f) {
			os.Remove(f)
		}
	}
}

// written reports whether a process is writing the file at path.
func written(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // a symbolic link, which is made at once
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
