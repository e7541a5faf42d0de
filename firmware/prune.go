package firmware

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// keepImages is the number of images of a target that stay in the cache besides those in use: the
// current one and its predecessors.
const keepImages = 3

// prune removes the oldest unused images of m's target, and the unpacked files of images that are
// gone. The caller holds the cache's lock. A failure costs only disk space.
func prune(cacheDir string, m Manifest, current string) {
	atomicfile.Sweep(imageDir(cacheDir))
	paths, _ := filepath.Glob(filepath.Join(imageDir(cacheDir),
		fmt.Sprintf("toe-%s-%s-%s-*.tar", m.Edition, m.Arch, m.Target)))
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == current })
	slices.SortFunc(paths, func(a, b string) int { return modTime(b).Compare(modTime(a)) })
	for _, path := range paths[min(len(paths), keepImages-1):] {
		img, err := openImage(path, cacheDir, nil)
		if err == nil && !removeUnused(filepath.Join(filesDir(cacheDir), img.id)) {
			continue
		}
		os.Remove(path)
	}
	pruneFiles(cacheDir)
}

// pruneFiles removes unpacked files without an image, and files that a killed process left
// unfinished.
func pruneFiles(cacheDir string) {
	ids := map[string]bool{}
	paths, _ := filepath.Glob(filepath.Join(imageDir(cacheDir), "toe-*.tar"))
	for _, path := range paths {
		if img, err := openImage(path, cacheDir, nil); err == nil {
			ids[img.id] = true
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(filesDir(cacheDir), "*"))
	for _, dir := range dirs {
		if ids[filepath.Base(dir)] {
			removeParts(dir)
		} else {
			removeUnused(dir)
		}
	}
}

// removeUnused removes a directory unless a process holds a lease on it.
func removeUnused(dir string) bool {
	l, err := flock.Exclude(dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer l.Release()
	return os.RemoveAll(dir) == nil
}

// removeParts removes unfinished members. A process that is unpacking holds a lease.
func removeParts(dir string) {
	parts, _ := filepath.Glob(filepath.Join(dir, unpacking+"*"))
	if len(parts) == 0 {
		return
	}
	l, err := flock.Exclude(dir)
	if err != nil {
		return
	}
	defer l.Release()
	for _, part := range parts {
		os.Remove(part)
	}
}

func modTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
