package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/apt"
)

// passtSuite is the Debian release whose passt has a vhost-user mode, the
// first one that does.
const passtSuite = "trixie"

// findPasst gives the command of a passt that has a vhost-user mode: the
// installed one, or else Debian's as Fetch brought it, with the C library that
// it was built for, unpacked for this run only.
func (r *run) findPasst(ctx context.Context) ([]string, error) {
	if path, err := exec.LookPath("passt"); err == nil && hasVhostUser(ctx, path) == nil {
		return []string{path}, nil
	}
	if runtime.GOARCH != "amd64" {
		return nil, errors.New("no passt with --vhost-user is installed; only for amd64 one is fetched")
	}
	var program []string
	err := r.NoPasst
	if err == nil {
		program, err = r.unpackPasst(ctx)
	}
	if err == nil {
		err = hasVhostUser(ctx, program...)
	}
	if err != nil {
		return nil, fmt.Errorf("no passt with --vhost-user is installed, and Debian %s's cannot be had: %w", passtSuite, err)
	}
	return program, nil
}

func hasVhostUser(ctx context.Context, program ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program[0], append(program[1:], "--help")...).CombinedOutput()
	if !strings.Contains(string(out), "--vhost-user") {
		return fmt.Errorf("%s --help names no --vhost-user (%v)", strings.Join(program, " "), err)
	}
	return nil
}

// passtPackages are what it takes to run Debian's passt elsewhere.
var passtPackages = []string{"passt", "libc6"}

func passtRoot(ctx context.Context, cache string) (*apt.Root, error) {
	return apt.Open(ctx, apt.Options{Dir: filepath.Join(cache, "apt", "bench"), Arch: firmware.HostArch(), Suites: []string{passtSuite}})
}

// Fetch brings what a run needs from the network and does not have: a passt
// with a vhost-user mode, through an apt root of its own in the cache. A run
// has no network, so this comes before.
func Fetch(ctx context.Context, cache string) error {
	if path, err := exec.LookPath("passt"); err == nil && hasVhostUser(ctx, path) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	root, err := passtRoot(ctx, cache)
	if err != nil {
		return err
	}
	for _, name := range passtPackages {
		p, err := root.Candidate(ctx, name)
		if errors.Is(err, apt.ErrNoPackage) {
			if err := root.Update(ctx); err != nil {
				return err
			}
			p, err = root.Candidate(ctx, name)
		}
		if err != nil {
			return err
		}
		if err := root.Fetch(ctx, p, func(int64) {}); err != nil {
			return err
		}
	}
	return nil
}

// unpackPasst unpacks what Fetch brought below the run's folder, and gives
// the command.
func (r *run) unpackPasst(ctx context.Context) ([]string, error) {
	root, err := passtRoot(ctx, r.Cache)
	if err != nil {
		return nil, err
	}
	to := filepath.Join(r.dir, "debian")
	for _, name := range passtPackages {
		p, err := root.Candidate(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := root.Check(p); err != nil {
			return nil, err
		}
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", root.Path(p), to).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w: %s", name, err, out)
		}
	}
	program := filepath.Join(to, "usr/bin/passt")
	// passt would look for its quicker build beside the loader.
	if quick := program + ".avx2"; cpu.X86.HasAVX2 {
		if _, err := os.Stat(quick); err == nil {
			program = quick
		}
	}
	libraries := filepath.Join(to, "usr/lib/x86_64-linux-gnu")
	return []string{filepath.Join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries, program}, nil
}
