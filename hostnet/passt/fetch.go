package passt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/internal/progress"
)

// suite is the Debian release to fetch a passt from: the first one that passes
// the self-test and has a vhost-user mode.
const suite = "trixie"

// packages are what it takes to run Debian's passt on another release.
var packages = []string{"passt", "libc6"}

// fetchLimit bounds a fetch: 3 MB of packages, and the indexes of a release.
const fetchLimit = 5 * time.Minute

// fetchedName is a symbolic link in the cache to the folder of the version that
// was unpacked last.
const fetchedName = "passt-" + suite

// Fetched is the passt that the cache has.
func Fetched(cache string) (Program, error) {
	root, err := filepath.EvalSymlinks(filepath.Join(cache, fetchedName))
	if err != nil {
		return Program{}, fmt.Errorf("passt of Debian %s: %w", suite, err)
	}
	version, err := os.ReadFile(filepath.Join(root, versionName))
	if err != nil {
		return Program{}, fmt.Errorf("passt of Debian %s: %w", suite, err)
	}
	program := filepath.Join(root, "usr/bin/passt")
	// passt would look for its quicker build beside the loader.
	if quick := program + ".avx2"; cpu.X86.HasAVX2 {
		if _, err := os.Stat(quick); err == nil {
			program = quick
		}
	}
	libraries, err := filepath.EvalSymlinks(filepath.Join(root, librariesName))
	if err != nil {
		return Program{}, fmt.Errorf("passt of Debian %s: %w", suite, err)
	}
	return Program{
		Argv:    []string{filepath.Join(root, loaderName), "--library-path", libraries, program},
		Package: "Debian " + suite + "'s passt " + string(version),
	}, nil
}

const (
	versionName = "version"
	// loaderName is a link to the dynamic loader. The process is called by its
	// name.
	loaderName    = "passt"
	librariesName = "lib" // a link to the folder of the C library
)

// Fetch brings the passt of the newer release into the cache.
func Fetch(ctx context.Context, cache string, p *progress.Progress) (Program, error) {
	return fetch(ctx, cache, nil, p)
}

func fetch(
	ctx context.Context, cache string, why error, p *progress.Progress,
) (_ Program, err error) {
	stage := p.Stage("passt of Debian "+suite, 0)
	defer func() { stage.Fail(err) }()
	if why != nil {
		stage.Note(why.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Program{}, err
	}
	lock, err := waitLock(ctx, filepath.Join(cache, fetchedName+".lock"), stage)
	if err != nil {
		return Program{}, err
	}
	defer lock.Release()
	if have, err := Fetched(cache); err == nil {
		return have, nil // another toe has fetched it meanwhile
	}
	if err := fetchInto(ctx, cache, stage); err != nil {
		return Program{}, err
	}
	return Fetched(cache)
}

// waitLock waits for another fetch for as long as ctx lasts.
func waitLock(ctx context.Context, path string, stage *progress.Stage) (*flock.Lock, error) {
	for {
		l, err := flock.Try(path)
		if !errors.Is(err, flock.ErrHeld) {
			return l, err
		}
		stage.Note("waiting for another toe that fetches it")
		if ctx.Err() != nil {
			return nil, fmt.Errorf("waiting for %s: %w", path, ctx.Err())
		}
	}
}

// fetchInto fetches the packages, checks them against the signed index, and
// unpacks them.
func fetchInto(ctx context.Context, cache string, stage *progress.Stage) error {
	arch, loader, err := architecture()
	if err != nil {
		return err
	}
	root, err := apt.Open(ctx, apt.Options{
		Dir: filepath.Join(cache, "apt", "passt"), Arch: arch, Suites: []string{suite},
	})
	if err != nil {
		return err
	}
	stage.Note("package indexes")
	if err := root.Update(ctx); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cache, ".new-passt-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	version := ""
	for _, name := range packages {
		p, err := root.Candidate(ctx, name)
		if err != nil {
			return err
		}
		stage.Note(name + " " + p.Version)
		if err := root.Fetch(ctx, p, func(int64) {}); err != nil {
			return err
		}
		unpack := exec.CommandContext(ctx, "dpkg-deb", "--extract", root.Path(p), tmp)
		if out, err := unpack.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", root.Path(p), err, out)
		}
		if version == "" {
			version = p.Version
		}
	}
	return install(cache, tmp, loader, version)
}

// architecture is Debian's name of this machine's architecture, and a pattern
// for its dynamic loader.
func architecture() (name, loader string, err error) {
	known := map[string][2]string{
		"amd64": {"amd64", "ld-linux-x86-64.so.2"}, "arm64": {"arm64", "ld-linux-aarch64.so.1"},
		"riscv64": {"riscv64", "ld-linux-riscv64-lp64d.so.1"}, "ppc64le": {"ppc64el", "ld64.so.2"},
	}
	a, ok := known[runtime.GOARCH]
	if !ok {
		return "", "", fmt.Errorf("no passt is fetched for the architecture %s", runtime.GOARCH)
	}
	return a[0], a[1], nil
}

// install makes what was unpacked to tmp the passt of the cache. One that runs
// keeps its files: a folder of another version stays.
func install(cache, tmp, loader, version string) error {
	found, err := filepath.Glob(filepath.Join(tmp, "usr/lib/*", loader))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("package libc6 has %d files usr/lib/*/%s, want 1", len(found), loader)
	}
	inside, err := filepath.Rel(tmp, found[0])
	if err != nil {
		return err
	}
	if err := os.Symlink(inside, filepath.Join(tmp, loaderName)); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Dir(inside), filepath.Join(tmp, librariesName)); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(tmp, versionName), []byte(version), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := syncAll(tmp); err != nil {
		return fmt.Errorf("sync %s: %w", tmp, err)
	}
	name := fetchedName + "-" + version
	if err := os.RemoveAll(filepath.Join(cache, name)); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(cache, name)); err != nil {
		return err
	}
	return atomicfile.Symlink(name, filepath.Join(cache, fetchedName))
}

// syncAll makes what dpkg-deb wrote durable: a power loss leaves no passt with
// empty files behind a good name.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
