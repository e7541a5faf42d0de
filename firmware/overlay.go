package firmware

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/newc"
)

// Overlay writes to dst the firmware's initramfs followed by an archive of files. These replace
// files of the same name in the firmware: the kernel unpacks concatenated archives in order, each
// of which starts at a multiple of 4 bytes. Parent directories of the files are added, mode 0755.
//
// dst holds keys, so its mode is 0600. It is replaced atomically, and unchanged on error.
func Overlay(dst, firmwareInitrd string, files []newc.File) error {
	src, err := os.Open(firmwareInitrd)
	if err != nil {
		return fmt.Errorf("firmware's initramfs: %w", err)
	}
	defer src.Close()
	return atomicfile.WriteFunc(dst, 0o600, func(w io.Writer) error {
		n, err := io.Copy(w, src)
		if err != nil {
			return err
		}
		if err := newc.Pad(w, n); err != nil {
			return err
		}
		return newc.Write(w, withParents(files))
	})
}

// withParents inserts the parent directories of each file before it, once each. A directory that
// needs another mode is listed before its first file.
func withParents(files []newc.File) []newc.File {
	known := map[string]bool{"/": true}
	var all []newc.File
	for _, f := range files {
		var above []newc.File
		for dir := path.Dir(f.Name); !known[dir] && path.IsAbs(dir); dir = path.Dir(dir) {
			known[dir] = true
			above = append(above, newc.Dir(dir, 0o755))
		}
		slices.Reverse(above)
		known[f.Name] = known[f.Name] || f.Mode.IsDir()
		all = append(append(all, above...), f)
	}
	return all
}
