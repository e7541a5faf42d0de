package firmware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/dpkg"
)

// Debian is a whole Debian 13 on a disk: systemd, OpenSSH, apt, and the agent as a service. Its
// initramfs is that of the micro edition, which mounts the disk and goes on there (agent/stage.go).
const Debian Edition = "debian"

// Editions lists the kinds of system that Build makes.
var Editions = []Edition{Micro, Debian, Nano}

// debianEpoch is the time of the files of a root that are not older: the release of Debian 13, in
// seconds since 1970. With one time for all builds the same packages give the same bytes.
const debianEpoch = 1754697600

// debianSuites are those of an ordinary Debian 13. Their updates come from debianSecurity.
var debianSuites = []string{"trixie", "trixie-updates"}

const debianSecurity = "trixie-security"

// debianPackages are those of every root, besides the essential ones and their dependencies.
var debianPackages = []string{
	"apt", "ca-certificates", "curl", "dbus", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "less",
	"libubootenv-tool", "netbase", "nftables", "openssh-server", "procps", "rauc", "rauc-service",
	"systemd", "systemd-sysv", "tcpdump", "udev", "unattended-upgrades",
}

// debianRecipe is part of the cache key of a root. Raise it when bootstrap changes its result.
const debianRecipe = "1"

var packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)

// checkPackages rejects names that no Debian package has.
func checkPackages(names []string) error {
	for _, name := range names {
		if !packagePattern.MatchString(name) {
			return fmt.Errorf("package %q: want the name of a Debian package, such as tcpdump", name)
		}
	}
	return nil
}

// debianTools maps the programs that the build of a root runs to their packages.
var debianTools = map[string]string{"mmdebstrap": "mmdebstrap", "tar": "tar", "dpkg": "dpkg"}

// debianRoot returns the members that a root adds to an image, and adds its packages to b.
func debianRoot(ctx context.Context, o Options, b *base, agent []byte) ([]content, error) {
	if err := needTools(debianTools); err != nil {
		return nil, err
	}
	base, err := debianBase(ctx, o)
	if err != nil {
		return nil, err
	}
	root, status, err := composeRoot(ctx, o, base, b, agent)
	if err != nil {
		return nil, err
	}
	installed, err := dpkg.Parse(status)
	if err != nil {
		return nil, err
	}
	bill, err := spdx(installed, o.Arch)
	if err != nil {
		return nil, err
	}
	for _, p := range installed {
		b.packages = append(b.packages, Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
	}
	return []content{
		{name: rootName, data: root, critical: true},
		{name: sbomName, data: bill},
	}, nil
}

// debianBase returns the tar of a root with the packages of Debian only. It takes the one in the
// cache, unless o asks for newer packages and the mirror has some.
func debianBase(ctx context.Context, o Options) (string, error) {
	wanted := slices.Compact(slices.Sorted(slices.Values(slices.Concat(debianPackages, o.Packages))))
	root, err := apt.Open(ctx, apt.Options{
		Dir: filepath.Join(o.CacheDir, "apt", "debian-"+o.Arch), Arch: o.Arch,
		Suites: debianSuites, Security: debianSecurity, Mirror: o.Mirror, Keyring: o.keyring,
	})
	if err != nil {
		return "", err
	}
	key := sha256.Sum256([]byte(debianRecipe + "\n" + o.Mirror + "\n" + strings.Join(wanted, "\n")))
	path := filepath.Join(o.CacheDir, "debian", fmt.Sprintf("root-%s-%s.tar", o.Arch, hex.EncodeToString(key[:6])))
	newer, err := newerPackage(ctx, o, root, path)
	if err != nil || newer == "" {
		return path, err
	}
	if newer != missing {
		o.Progress.Log("%s is newer on the mirror; making the root again", newer)
	}
	return path, bootstrap(ctx, o, root, wanted, path)
}

// missing is what newerPackage says of a root that is not in the cache.
const missing = "the root"

// newerPackage names a package of which the mirror has a newer version than the root at path. It
// returns "" where there is none, and missing where there is no root.
func newerPackage(ctx context.Context, o Options, root *apt.Root, path string) (string, error) {
	status, err := os.ReadFile(path + ".status")
	if _, tarErr := os.Stat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(tarErr, fs.ErrNotExist) {
		return missing, nil
	}
	if err != nil || !o.Update {
		return "", err
	}
	stage := o.Progress.Stage("comparing the root's packages with the mirror's", 0)
	newer, err := compareWithMirror(ctx, root, status)
	if err != nil {
		stage.Fail(err)
		return "", err
	}
	stage.Done(orElse(newer, "the same"))
	return newer, nil
}

func compareWithMirror(ctx context.Context, root *apt.Root, status []byte) (string, error) {
	installed, err := dpkg.Parse(status)
	if err != nil {
		return "", err
	}
	if err := root.Update(ctx); err != nil {
		return "", err
	}
	var names []string
	for _, p := range installed {
		names = append(names, p.Name)
	}
	offered, err := root.Candidates(ctx, names)
	if err != nil {
		return "", err
	}
	for _, p := range installed {
		if c, ok := offered[p.Name]; ok && c.Version != p.Version {
			return p.Name + " " + c.Version, nil
		}
	}
	return "", nil
}
