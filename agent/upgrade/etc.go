package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A card's /etc is an overlay: the slot's own, and over it what was changed since, which is on the data
// partition and shared by both slots. A program in the new root sees a copy of the whole. What the upgrade
// changes there goes into the new root's own /etc. Only where the data partition hides that path it goes
// into a layer in the new root:
//
//	id    of the upgrade
//	old/  what the data partition had
//	new/  what the upgrade made of it
//
// The first start of the slot puts new in the place of old (ApplyEtc). A start of a slot without this
// upgrade puts old in the place of new. A file that has another content by then is the administrator's,
// and stays. In both trees a path that is missing is a whiteout of overlayfs, a device 0:0.
const (
	layerDir   = "var/lib/toe/etc"
	upgradeIDs = "var/lib/toe/upgrades" // of all upgrades that led to a root, a line each
	mergedDir  = "var/lib/toe/etc.merged"
	// appliedDir, on the data partition, is the layer that was applied last.
	appliedDir = "etc/upgrade"
)

// node is what counts of a file, for a comparison.
type node struct {
	mode     fs.FileMode
	uid, gid uint32
	sum      [sha256.Size]byte // of the contents, or of the target of a link
}

// snapshot reads the nodes below dir, by their path.
func snapshot(dir string) (map[string]node, error) {
	out := map[string]node{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		n, err := nodeOf(path)
		out[strings.TrimPrefix(path, dir+"/")] = n
		return err
	})
	return out, err
}

func nodeOf(path string) (node, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return node{}, err
	}
	n := node{mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		n.uid, n.gid = st.Uid, st.Gid
	}
	switch {
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return n, err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		h.Sum(n.sum[:0])
		return n, errors.Join(err, f.Close())
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		n.sum = sha256.Sum256([]byte(target))
		return n, err
	}
	return n, nil
}

// same compares what is at two paths, also that nothing is there.
func same(a, b string) bool {
	if isMissing(a) || isMissing(b) {
		return isMissing(a) && isMissing(b)
	}
	x, errX := nodeOf(a)
	y, errY := nodeOf(b)
	return errX == nil && errY == nil && x == y
}

// isMissing reports that a path is not there, or is a whiteout.
func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || isWhiteout(path)
}

// changed lists the paths that differ, those above first.
func changed(before, after map[string]node) []string {
	all := maps.Clone(before)
	maps.Copy(all, after)
	var paths []string
	for _, path := range slices.Sorted(maps.Keys(all)) {
		was, had := before[path]
		is, has := after[path]
		if had != has || was != is {
			paths = append(paths, path)
		}
	}
	return paths
}

// hidden reports whether the upper layer of an overlay hides what its lower layer has at path.
func hidden(upper, path string) bool {
	at := upper
	for part := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return false
		}
		if !info.IsDir() || isOpaque(at) {
			return true
		}
	}
	return true // a directory with what the upper layer says of it
}

func isOpaque(dir string) bool {
	b := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", b)
	return err == nil && n == 1 && b[0] == 'y'
}

// beginEtc lays a copy of the card's /etc over that of the new root, and returns what is in it.
func (w *worker) beginEtc(ctx context.Context) (map[string]node, error) {
	merged := filepath.Join(w.to, mergedDir)
	if err := os.MkdirAll(merged, 0o755); err != nil {
		return nil, err
	}
	if err := w.command(ctx, "", "/bin/cp", "-a", "/etc/.", merged); err != nil {
		return nil, err
	}
	before, err := snapshot(merged)
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(merged, filepath.Join(w.to, "etc"), "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount on /etc of the new root: %w", err)
	}
	return before, nil
}

// endEtc takes the copy away again, and what the upgrade changed in it to where it belongs.
func (w *worker) endEtc(before map[string]node) error {
	merged := filepath.Join(w.to, mergedDir)
	if err := unix.Unmount(filepath.Join(w.to, "etc"), 0); err != nil {
		return fmt.Errorf("unmount /etc of the new root: %w", err)
	}
	after, err := snapshot(merged)
	if err != nil {
		return err
	}
	id := w.Time.UTC().Format(time.RFC3339Nano)
	if err := layOut(w.to, merged, w.DataEtc, id, changed(before, after)); err != nil {
		return fmt.Errorf("/etc of the new root: %w", err)
	}
	return os.RemoveAll(merged)
}

// layOut writes the paths of merged that changed into the own /etc of the root at dir, and those that
// upper hides into its layer.
func layOut(dir, merged, upper, id string, paths []string) error {
	layer := filepath.Join(dir, layerDir)
	for _, sub := range []string{"old", "new"} {
		if err := os.MkdirAll(filepath.Join(layer, sub), 0o700); err != nil {
			return err
		}
	}
	for _, path := range paths {
		var err error
		switch {
		case upper != "" && hidden(upper, path):
			err = errors.Join(put(upper, path, filepath.Join(layer, "old")), put(merged, path, filepath.Join(layer, "new")))
		case isMissing(filepath.Join(merged, path)):
			err = os.RemoveAll(filepath.Join(dir, "etc", path))
		default:
			err = put(merged, path, filepath.Join(dir, "etc"))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	ids, err := os.ReadFile(filepath.Join(dir, upgradeIDs))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, upgradeIDs), append(ids, id+"\n"...), 0o644),
		os.WriteFile(filepath.Join(layer, "id"), []byte(id+"\n"), 0o644))
}

// put makes path of the tree to what it is in the tree from. A path that is missing there becomes a
// whiteout. Folders above it are made as they are there.
func put(from, path, to string) error {
	src, dst := filepath.Join(from, path), filepath.Join(to, path)
	if above := filepath.Dir(path); above != "." {
		if info, err := os.Lstat(filepath.Join(to, above)); err != nil || !info.IsDir() {
			if err := put(from, above, to); err != nil {
				return err
			}
			if isWhiteout(filepath.Join(to, above)) {
				return nil // it is missing with the folder that it was in
			}
		}
	}
	info, err := os.Lstat(src)
	switch {
	case isMissing(src):
		if err := os.RemoveAll(dst); err != nil {
			return err
		}
		return unix.Mknod(dst, unix.S_IFCHR, 0)
	case err != nil:
		return err
	}
	next := dst
	if !info.IsDir() {
		if old, err := os.Lstat(dst); err == nil && old.IsDir() {
			if err := os.RemoveAll(dst); err != nil {
				return err
			}
		}
		next = dst + ".toe-new"
		if err := os.RemoveAll(next); err != nil {
			return err
		}
	}
	if err := copyNode(src, next, info); err != nil {
		return err
	}
	if next == dst {
		return nil
	}
	return os.Rename(next, dst)
}

func isWhiteout(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Rdev == 0
}

// copyNode copies a regular file, a link or a folder without what is in it, with mode, owner and time.
func copyNode(src, dst string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		if old, err := os.Lstat(dst); err == nil && !old.IsDir() {
			if err := os.Remove(dst); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, dst); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		data, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type %v: want a file, a folder or a symbolic link", info.Mode().Type())
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && (os.Geteuid() == 0 || int(st.Uid) != os.Geteuid()) {
		if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return errors.Join(os.Chmod(dst, info.Mode()), os.Chtimes(dst, time.Time{}, info.ModTime()))
}

// ApplyEtc brings the data partition at data to what the root at root expects of it, before the overlay is
// mounted on its /etc. A power loss may repeat it.
func ApplyEtc(root, data string) error {
	layer, applied, upper := filepath.Join(root, layerDir), filepath.Join(data, appliedDir), filepath.Join(data, "etc/upper")
	want, now := readID(layer), readID(applied)
	if now != "" && now != want {
		ids, _ := os.ReadFile(filepath.Join(root, upgradeIDs))
		if !bytes.Contains(append([]byte("\n"), ids...), []byte("\n"+now+"\n")) {
			if err := exchange(applied, "new", "old", upper); err != nil {
				return fmt.Errorf("taking upgrade %s back: %w", now, err)
			}
		}
		if err := os.RemoveAll(applied); err != nil {
			return err
		}
	}
	if want == "" {
		return nil
	}
	done := filepath.Join(applied, "done")
	if now != want {
		if err := keepLayer(layer, applied); err != nil {
			return err
		}
	} else if _, err := os.Stat(done); err == nil {
		return nil
	}
	if err := exchange(applied, "old", "new", upper); err != nil {
		return fmt.Errorf("upgrade %s: %w", want, err)
	}
	return os.WriteFile(done, nil, 0o600)
}

func readID(layer string) string {
	text, _ := os.ReadFile(filepath.Join(layer, "id"))
	return strings.TrimSpace(string(text))
}

// keepLayer copies a layer to the data partition. It appears when it is complete.
func keepLayer(layer, applied string) error {
	next := applied + ".new"
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	err := filepath.WalkDir(layer, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := next + strings.TrimPrefix(path, layer)
		if isWhiteout(path) {
			return unix.Mknod(to, unix.S_IFCHR, 0)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return copyNode(path, to, info)
	})
	if err != nil {
		return err
	}
	unix.Sync()
	return os.Rename(next, applied)
}

// exchange puts each path of the layer's tree to into upper, where that has what the tree from has.
func exchange(layer, from, to, upper string) error {
	was, is := filepath.Join(layer, from), filepath.Join(layer, to)
	paths := map[string]bool{}
	for _, tree := range []string{was, is} {
		err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != tree {
				paths[strings.TrimPrefix(path, tree+"/")] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	all := slices.Sorted(maps.Keys(paths))
	for _, path := range all {
		// Otherwise the administrator changed it, or it was exchanged before.
		if !isMissing(filepath.Join(is, path)) && same(filepath.Join(upper, path), filepath.Join(was, path)) {
			if err := put(is, path, upper); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	for _, path := range slices.Backward(all) { // a folder after what is in it
		at := filepath.Join(upper, path)
		if isMissing(filepath.Join(is, path)) && same(at, filepath.Join(was, path)) && isEmpty(at) {
			if err := put(is, path, upper); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// isEmpty is false for a folder with something in it.
func isEmpty(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return true
	}
	entries, err := os.ReadDir(path)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !isWhiteout(filepath.Join(path, e.Name())) })
}
