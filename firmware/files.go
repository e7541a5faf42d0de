package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// Files are the members of an image as a machine boots them, unpacked in the cache. No build
// removes them before Close or the exit of the process that holds them.
type Files struct {
	Kernel, Initrd string // paths
	Root           string // compressed; empty where the edition has none
	lease          *flock.Lock
}

// Close lets builds remove the files.
func (f *Files) Close() error {
	f.lease.Release()
	return nil
}

// unpacking is the prefix of members that are being written.
const unpacking = ".unpacking-"

func filesDir(cacheDir string) string { return filepath.Join(imageDir(cacheDir), "files") }

// Files unpacks the kernel and the initramfs into the cache and verifies them, unless they are
// there already. Every process that uses an image holds a shared flock on its directory, and prune
// skips locked directories. Errors: ErrInvalid.
func (img *Image) Files(ctx context.Context) (*Files, error) {
	dir := filepath.Join(filesDir(img.cache), img.id)
	l, err := lease(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("firmware cache: %w", err)
	}
	if !img.isUnpacked(dir) {
		if err := img.unpack(ctx, dir); err != nil {
			os.Remove(dir) // only an empty one
			l.Release()
			return nil, fmt.Errorf("unpacking firmware %s: %w", img.Path, err)
		}
	}
	files := &Files{
		Kernel: filepath.Join(dir, kernelName), Initrd: filepath.Join(dir, initramfsName), lease: l,
	}
	if img.has(rootName) {
		files.Root = filepath.Join(dir, rootName)
	}
	return files, nil
}

// lease makes dir and takes its shared lock. A build that is removing dir holds the lock for
// milliseconds.
func lease(ctx context.Context, dir string) (*flock.Lock, error) {
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		l, err := flock.Share(dir)
		if !errors.Is(err, flock.ErrHeld) && !errors.Is(err, fs.ErrNotExist) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the removal of %s: %w", dir, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// isUnpacked reads no contents, so that a start does not read the kernel twice. A member gets its
// name by a rename after the whole image was verified.
func (img *Image) isUnpacked(dir string) bool {
	for _, f := range img.Members {
		if !slices.Contains(unpacked, f.Name) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, f.Name))
		if err != nil || !info.Mode().IsRegular() || info.Size() != f.Size {
			return false
		}
	}
	return true
}

func (img *Image) unpack(ctx context.Context, dir string) error {
	parts := map[string]string{} // name of a member → path it was written to
	defer func() {
		for _, part := range parts {
			os.Remove(part) // those that were not renamed
		}
	}()
	again, err := img.reopen(func(f Member, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !slices.Contains(unpacked, f.Name) {
			return nil
		}
		part, err := writePart(dir, fileMode(f.Name), r)
		parts[f.Name] = part
		return err
	})
	if err != nil {
		return err
	}
	if again.id != img.id {
		return fmt.Errorf("%w: the file was replaced while it was read", ErrInvalid)
	}
	for name, part := range parts {
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(dir)
}

// writePart writes a member under a name that prune recognizes as unfinished.
func writePart(dir string, perm fs.FileMode, r io.Reader) (path string, err error) {
	f, err := os.CreateTemp(dir, unpacking+"*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, r)
	return f.Name(), errors.Join(err, f.Chmod(perm), f.Sync(), f.Close())
}

func fileMode(member string) fs.FileMode {
	if member == kernelName {
		return 0o755 // User-Mode Linux is a program
	}
	return 0o644
}
