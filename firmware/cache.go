package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/progress"
)

const lockPoll = 200 * time.Millisecond

// lockCache takes the cache's build lock. It waits for another build until ctx ends, and reports
// which.
func lockCache(ctx context.Context, cacheDir, what string, p *progress.Progress) (unlock func(), err error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("firmware cache: %w", err)
	}
	name := filepath.Join(cacheDir, "build.lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("firmware cache: %w", err)
	}
	if err := waitLock(ctx, f, p); err != nil {
		f.Close()
		return nil, err
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "process %d: %s\n", os.Getpid(), what)
	}
	return func() { f.Close() }, nil
}

func waitLock(ctx context.Context, f *os.File, p *progress.Progress) (err error) {
	var stage *progress.Stage
	defer func() {
		if stage != nil {
			stage.Fail(err)
		}
	}()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("flock %s: %w", f.Name(), err)
		}
		if stage == nil {
			stage = p.Stage("waiting for another build in the same cache", 0)
			stage.Note(holder(f))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s, held by %s: %w", f.Name(), holder(f), ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

func holder(f *os.File) string {
	b := make([]byte, 200)
	n, _ := f.ReadAt(b, 0)
	if line := strings.TrimSpace(string(b[:n])); line != "" {
		return line
	}
	return "an unnamed process"
}

// store adds an image to the cache and makes it the current one.
func store(cacheDir string, m Manifest, contents []content) (*Image, error) {
	dir := imageDir(cacheDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, imageName(m))
	err := atomicfile.WriteFunc(path, 0o644, func(w io.Writer) error { return pack(w, m, contents) })
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Symlink(filepath.Base(path), currentLink(cacheDir, m.Edition, m.Target, m.Arch)); err != nil {
		return nil, err
	}
	prune(cacheDir, m, path)
	return openImage(path, cacheDir, nil)
}
