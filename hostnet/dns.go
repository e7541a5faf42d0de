package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/toe-project/toe/internal/atomicfile"
)

const resolvPath = "/etc/resolv.conf"

// resolvMark begins each resolv.conf that a card has put there.
const resolvMark = "# written by toe"

// ResolvConf is a resolv.conf that asks servers.
func ResolvConf(servers []netip.Addr, search []string) []byte {
	var b strings.Builder
	b.WriteString(resolvMark + "; put back when the card goes down\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	return []byte(b.String())
}

// saveFile remembers path as it is, before ours is put there.
func saveFile(path string, ours []byte) (*SavedFile, error) {
	s := &SavedFile{Path: path, Ours: ours}
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

// replaceWith puts ours in the place of what was saved.
func (s *SavedFile) replaceWith() error {
	if err := atomicfile.Write(s.Path, s.Ours, 0o644); err == nil || s.Link != "" {
		return err // written through a link, it would be some other file
	}
	// A file that is a mount of its own, as in containers, cannot be renamed over.
	return os.WriteFile(s.Path, s.Ours, 0o644)
}

// restoreFile puts the saved file back, unless somebody else has changed it
// since, who then knows better.
func restoreFile(s *SavedFile) error {
	if s == nil {
		return nil
	}
	now, err := os.ReadFile(s.Path)
	if err == nil && !bytes.Equal(now, s.Ours) {
		return nil
	}
	switch {
	case s.Absent:
		if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case s.Link != "":
		return restoreLink(s)
	}
	if err := atomicfile.Write(s.Path, s.Data, fs.FileMode(s.Mode)); err == nil {
		return nil
	}
	return os.WriteFile(s.Path, s.Data, fs.FileMode(s.Mode))
}

func restoreLink(s *SavedFile) error {
	tmp := s.Path + ".toe"
	_ = os.Remove(tmp)
	if err := os.Symlink(s.Link, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, s.Path)
}
