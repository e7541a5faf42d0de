package card

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// unfinished begins the names of files that are being written.
const unfinished = ".new-"

// unfinishedFor is how long a write may take before it is taken for one whose
// process was killed.
const unfinishedFor = time.Minute

// removeUnfinished removes from dir what writers left that were killed. It is
// housekeeping: a failure costs disk space only.
func removeUnfinished(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	for _, f := range files {
		if made, ok := modTime(f); ok && time.Since(made) > unfinishedFor {
			os.Remove(f)
		}
	}
}

// replaceFile makes path hold data, whole or not at all: write, fsync,
// rename, fsync of the folder.
func replaceFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, unfinished+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return replaceFile(path, append(data, '\n'), 0o600)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
