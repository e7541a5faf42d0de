package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/toe-project/toe/internal/atomicfile"
)

// savedFile is a file of the host as it was before it was replaced: a symbolic
// link, contents, or nothing.
type savedFile struct {
	Path   string `json:"path"`
	Link   string `json:"link,omitempty"`
	Data   []byte `json:"data,omitempty"`
	Mode   uint32 `json:"mode,omitempty"`
	Absent bool   `json:"absent,omitempty"`
	Ours   []byte `json:"ours"` // what takes its place
}

// saveFile remembers path as it is, before ours takes its place.
func saveFile(path string, ours []byte) (*savedFile, error) {
	s := &savedFile{Path: path, Ours: ours}
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Absent = true
		return s, nil
	case err != nil:
		return nil, err
	case fi.Mode()&fs.ModeSymlink != 0:
		s.Link, err = os.Readlink(path)
		return s, err
	}
	s.Mode = uint32(fi.Mode().Perm())
	s.Data, err = os.ReadFile(path)
	return s, err
}

// Make puts ours in the place of what was saved.
func (s *savedFile) Make() error {
	err := atomicfile.Write(s.Path, s.Ours, 0o644)
	if err == nil || s.Link != "" {
		return err // written through a link, it would be some other file
	}
	// A file that is a mount of its own, as in containers, cannot be renamed over.
	return overwrite(s.Path, s.Ours, 0o644)
}

// Undo puts the saved file back, unless what is there is not ours.
func (s *savedFile) Undo() error {
	fi, err := os.Lstat(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return nil
	}
	now, err := os.ReadFile(s.Path)
	if err != nil {
		return fmt.Errorf("put back %s: %w", s.Path, err)
	}
	switch {
	case !bytes.Equal(now, s.Ours):
		return nil
	case s.Absent:
		return atomicfile.Remove(s.Path)
	case s.Link != "":
		return atomicfile.Symlink(s.Link, s.Path)
	}
	if err := atomicfile.Write(s.Path, s.Data, fs.FileMode(s.Mode)); err == nil {
		return nil
	}
	return overwrite(s.Path, s.Data, fs.FileMode(s.Mode))
}

// Lasts is true: a restart of the host keeps its files.
func (s *savedFile) Lasts() bool { return true }

// overwrite writes a file in place, and durably.
func overwrite(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
