// Package apt fetches Debian packages through an apt root of its own.
//
// The root has its own configuration, sources, lists and archives. The host's apt does not change,
// an ordinary user can use it, and the host's pins and hooks do not apply. From the host it takes
// the mirror, the way to it (proxies, time limits, credentials) and the keyring. apt verifies the
// indexes against the keyring and the packages against the indexes. Nothing else is accepted.
package apt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

var (
	// ErrNoApt: the host has no apt; install it, or build on a Debian host
	// and copy the result.
	ErrNoApt = errors.New("apt is not installed")
	// ErrNoKeyring: install the package debian-archive-keyring.
	ErrNoKeyring = errors.New("the Debian archive keyring is missing")
	// ErrNoMirror: the host's apt names no Debian mirror; give one.
	ErrNoMirror = errors.New("no Debian mirror is known")
	// ErrIndex: the mirror's indexes could not be fetched or verified.
	ErrIndex = errors.New("no usable package indexes")
	// ErrNoSecurity: those of the security suite could not. The others can be used.
	ErrNoSecurity = errors.New("no usable package index of the security suite")
	// ErrNoPackage: no suite of the root has the package.
	ErrNoPackage = errors.New("no such package")
)

// keyrings of the Debian archive, the preferred one first.
var keyrings = []string{
	"/usr/share/keyrings/debian-archive-keyring.pgp",
	"/usr/share/keyrings/debian-archive-keyring.gpg",
}

// Options of a root.
type Options struct {
	Dir     string   // of the root; created
	Arch    string   // Debian architecture of the packages
	Suites  []string // of the mirror, component main
	Mirror  string   // URL; default the host's own
	Keyring string   // default the Debian archive's
	// Stale accepts indexes that are older than they say they may be. Their signatures are checked
	// as ever. A mirror that is kept as it was offers no others of a suite that changes daily; the
	// caller has a lower bound for the versions that it takes.
	Stale bool
	// Security is the suite to take from the host's own security mirror,
	// when the host has one and Mirror is not given.
	Security string
}

// Root is a private apt root.
type Root struct {
	o        Options
	conf     string   // path of its apt.conf
	settings []string // of the host, in it
	security bool     // it has a security suite
}

// Open writes the root's configuration. It does not use the network.
func Open(ctx context.Context, o Options) (*Root, error) {
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: no program %s in PATH; firmware is made of Debian packages", ErrNoApt, tool)
		}
	}
	if o.Keyring == "" {
		var err error
		if o.Keyring, err = findKeyring(); err != nil {
			return nil, err
		}
	}
	sources, security, err := o.sources(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := hostSettings(ctx)
	if err != nil {
		return nil, err
	}
	r := &Root{o: o, conf: filepath.Join(o.Dir, "apt.conf"), settings: settings, security: len(security) > 0}
	return r, r.write(ctx, sources, security, settings)
}

// lock waits until no other process changes the root: apt's own locks make it fail at once.
func (r *Root) lock(ctx context.Context) (*flock.Lock, error) {
	for {
		l, err := flock.Exclude(r.o.Dir)
		if !errors.Is(err, flock.ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another process that fetches packages into %s: %w", r.o.Dir, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func findKeyring() (string, error) {
	for _, name := range keyrings {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: neither of %s exists; fix: apt-get install debian-archive-keyring",
		ErrNoKeyring, strings.Join(keyrings, ", "))
}

// Archives is the directory that packages are fetched into.
func (r *Root) Archives() string { return filepath.Join(r.o.Dir, "archives") }

// write makes the directories and files of the root.
func (r *Root) write(ctx context.Context, sources, security, settings []string) error {
	dirs := []string{
		"archives/partial", "lists/partial", "state", "cache",
		"etc/apt/apt.conf.d", "etc/apt/preferences.d", // empty; apt complains where they are missing
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(r.o.Dir, dir), 0o755); err != nil {
			return fmt.Errorf("private apt root: %w", err)
		}
	}
	l, err := r.lock(ctx)
	if err != nil {
		return fmt.Errorf("private apt root: %w", err)
	}
	defer l.Release()
	files := map[string]string{
		"state/status": "",
		"sources.list": lines(slices.Concat(sources, security)),
		mainList:       lines(sources),
		"apt.conf":     r.config(settings),
	}
	for name, text := range files {
		if err := atomicfile.Write(filepath.Join(r.o.Dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("private apt root: %w", err)
		}
	}
	return nil
}

// mainList is the file of the sources without the security suite.
const mainList = "main.list"

func lines(list []string) string { return strings.Join(list, "\n") + "\n" }

// config is the root's apt.conf. apt reads the file that APT_CONFIG names
// first, and finds no other one below Dir.
func (r *Root) config(settings []string) string {
	in := func(name string) string { return quote(filepath.Join(r.o.Dir, name)) }
	lines := append(slices.Clone(settings),
		"Dir "+in("")+";",
		"Dir::Etc::sourcelist "+in("sources.list")+";",
		`Dir::Etc::sourceparts "-";`,
		`Dir::Etc::netrc "/etc/apt/auth.conf";`,
		`Dir::Etc::netrcparts "/etc/apt/auth.conf.d";`,
		"Dir::State "+in("state")+";",
		"Dir::State::lists "+in("lists")+";",
		"Dir::State::status "+in("state/status")+";",
		"Dir::Cache "+in("cache")+";",
		"Dir::Cache::archives "+in("archives")+";",
		"APT::Architecture "+quote(r.o.Arch)+";",
		"APT::Architectures { "+quote(r.o.Arch)+"; };",
		`Acquire::Languages "none";`,
		`Acquire::PDiffs "false";`,
		`Acquire::Check-Valid-Until `+quote(strconv.FormatBool(!r.o.Stale))+`;`,
		`Acquire::Check-Date "true";`,
		`Acquire::AllowInsecureRepositories "false";`,
		`Acquire::AllowWeakRepositories "false";`,
		`Acquire::AllowDowngradeToInsecureRepositories "false";`,
		`APT::Get::AllowUnauthenticated "false";`,
	)
	if !reachable(r.o.Dir) {
		// apt's own unprivileged user could not enter the directory.
		lines = append(lines, `APT::Sandbox::User "root";`)
	}
	return strings.Join(lines, "\n") + "\n"
}

// reachable reports whether every user may enter dir.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func quote(s string) string { return `"` + s + `"` }
