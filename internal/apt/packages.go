package apt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Package is one version of a package, as the signed index has it.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"architecture"`
	Size    int64  `json:"size"` // of the .deb, bytes
	SHA256  string `json:"sha256"`
	Depends string `json:"depends,omitempty"`
}

// File returns apt's name for the package's .deb.
func (p Package) File() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
}

// Path returns where the root keeps the package's .deb.
func (r *Root) Path(p Package) string { return filepath.Join(r.Archives(), p.File()) }

// Update fetches the indexes. All suites must be reached and verified. If only the security suite
// was not, the error is ErrNoSecurity, and the indexes are those of the others, and an older one of
// the security suite if there is any. Errors: ErrIndex, ErrNoSecurity.
func (r *Root) Update(ctx context.Context) error {
	l, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	err = r.update(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The lists of the suites that are left out stay.
	if r.security && r.update(ctx, "-o", "APT::Get::List-Cleanup=0",
		"-o", "Dir::Etc::sourcelist="+filepath.Join(r.o.Dir, mainList)) == nil {
		return fmt.Errorf("%w: %w", ErrNoSecurity, err)
	}
	return fmt.Errorf("%w (check that the mirror is reachable and the clock is right): %w", ErrIndex, err)
}

func (r *Root) update(ctx context.Context, options ...string) error {
	options = append([]string{"-q", "-o", "APT::Update::Error-Mode=any", "update"}, options...)
	_, err := r.apt(ctx, "apt-get", options...)
	return err
}

// Names lists the packages whose names begin with prefix.
func (r *Root) Names(ctx context.Context, prefix string) ([]string, error) {
	out, err := r.apt(ctx, "apt-cache", "pkgnames", prefix)
	return strings.Fields(out), err
}

// Candidate is the version of a package that apt would install: the newest of
// the suites, except that backports come last. Errors: ErrNoPackage.
func (r *Root) Candidate(ctx context.Context, name string) (Package, error) {
	out, err := r.apt(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		if ctx.Err() != nil {
			return Package{}, err
		}
		return Package{}, fmt.Errorf("%w: %s for %s in %s: %v", ErrNoPackage, name, r.o.Arch, strings.Join(r.o.Suites, ", "), err)
	}
	for _, f := range stanzas(out) {
		if f["package"] == name {
			return packageOf(f)
		}
	}
	return Package{}, fmt.Errorf("%w: %s for %s in %s", ErrNoPackage, name, r.o.Arch, strings.Join(r.o.Suites, ", "))
}

func packageOf(f map[string]string) (Package, error) {
	size, err := strconv.ParseInt(f["size"], 10, 64)
	if err != nil {
		return Package{}, fmt.Errorf("package %s: size %q in the index: %w", f["package"], f["size"], err)
	}
	return Package{
		Name: f["package"], Version: f["version"], Arch: f["architecture"],
		Size: size, SHA256: f["sha256"], Depends: f["depends"],
	}, nil
}

// Fetch brings a package into the archives, unless it is there already.
// progress is told how many bytes have come. What Fetch leaves in the
// archives has the hash of the signed index.
func (r *Root) Fetch(ctx context.Context, p Package, progress func(bytes int64)) error {
	if r.Check(p) == nil {
		progress(p.Size)
		return nil
	}
	l, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	if r.Check(p) == nil { // fetched by another process in the meantime
		progress(p.Size)
		return nil
	}
	if err := os.Remove(r.Path(p)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	stop := watch(progress, r.Path(p), filepath.Join(r.Archives(), "partial", p.File()))
	defer stop()
	env := []string{"APT_CONFIG=" + r.conf}
	spec := p.Name + "=" + p.Version
	if p.Arch != "all" {
		spec = p.Name + ":" + p.Arch + "=" + p.Version
	}
	if _, err := outputIn(ctx, r.Archives(), env, "apt-get", "-q", "download", spec); err != nil {
		return fmt.Errorf("fetching package %s %s: %w", p.Name, p.Version, err)
	}
	return r.Check(p)
}

// Check compares the fetched .deb with the hash of the index.
func (r *Root) Check(p Package) error {
	f, err := os.Open(r.Path(p))
	if err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("package %s: %s has SHA-256 %s, the index says %s", p.Name, f.Name(), got, p.SHA256)
	}
	return nil
}

func (r *Root) apt(ctx context.Context, name string, args ...string) (string, error) {
	return output(ctx, []string{"APT_CONFIG=" + r.conf}, name, args...)
}

// watch reports how far a download is: apt itself reports that to a terminal only.
func watch(progress func(int64), paths ...string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
			}
			for _, path := range paths {
				if info, err := os.Stat(path); err == nil {
					progress(info.Size())
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// Candidates is Candidate for many packages at once. Names that no suite has are left out.
func (r *Root) Candidates(ctx context.Context, names []string) (map[string]Package, error) {
	known, err := r.Names(ctx, "")
	if err != nil {
		return nil, err
	}
	asked := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(known, n) })
	all := map[string]Package{}
	if len(asked) == 0 {
		return all, nil
	}
	out, err := r.apt(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, asked...)...)
	if err != nil {
		return nil, err
	}
	for _, f := range stanzas(out) {
		p, err := packageOf(f)
		if err != nil {
			return nil, err
		}
		all[p.Name] = p
	}
	return all, nil
}

// Sources returns the root's sources.list, and the settings of the host's apt that say how to reach
// the mirror, each a line of apt.conf: for a program that installs a whole system.
func (r *Root) Sources() (path string, settings []string) {
	return filepath.Join(r.o.Dir, "sources.list"), r.settings
}
