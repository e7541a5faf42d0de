package firmware

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/newc"
)

// Compatible is the name by which cards and bundles recognize each other.
func (m Manifest) Compatible() string {
	return fmt.Sprintf("toe-%s-%s-%s", m.Arch, m.Target, m.Edition)
}

// raucTree has the files of a root that RAUC needs, besides its package.
//
//go:embed all:debian/rauc
var raucTree embed.FS

// raucFiles returns the files that make RAUC work on a card. keyring has the certificates that the
// card trusts, in PEM; it may be empty.
func raucFiles(compatible string, keyring []byte) []newc.File {
	const root = "debian/rauc"
	files := []newc.File{newc.Regular("/etc/fw_env.config", 0o644, []byte(flash.FwEnvConfig))}
	_ = fs.WalkDir(raucTree, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := raucTree.ReadFile(name)
		mode := fs.FileMode(0o644)
		if strings.Contains(name, "/usr/lib/toe/") {
			mode = 0o755
		}
		text := strings.ReplaceAll(string(data), "@COMPATIBLE@", compatible)
		files = append(files, newc.Regular(strings.TrimPrefix(name, root), mode, []byte(text)))
		return err
	})
	if len(keyring) > 0 {
		files = append(files, newc.Regular("/usr/lib/rauc/keyring.pem", 0o644, keyring))
	}
	return append(files, newc.Dir("/data", 0o755))
}

// raucNeeds is the first Linux that RAUC 1.13 of Debian 13 cannot mount a verity bundle on.
var raucNeeds = series{6, 19}

// raucSuite is a Debian release with a RAUC that can: 1.15.2, which runs with the libraries of
// Debian 13 but for libnl.
const raucSuite = "forky"

var raucPackages = []string{"rauc", "rauc-service", "libnl-3-200", "libnl-genl-3-200"}

// newerRAUC returns the packages of a RAUC for kernels that Debian 13's cannot serve, for the tar of
// addedToRoot, and none for other kernels.
func newerRAUC(ctx context.Context, o Options, release string) ([]newc.File, error) {
	kernel, err := parseSeries(strings.Join(strings.SplitN(plainVersion(release), ".", 3)[:2], "."))
	if err != nil {
		return nil, err
	}
	if kernel.less(raucNeeds) {
		return nil, nil
	}
	root, err := apt.Open(ctx, apt.Options{
		Dir: filepath.Join(o.CacheDir, "apt", "rauc-"+o.Arch), Arch: o.Arch,
		Suites: []string{raucSuite}, Mirror: o.Mirror, Keyring: o.keyring, Stale: true,
	})
	if err != nil {
		return nil, err
	}
	chosen, err := chooseRAUC(ctx, o, root)
	if err != nil {
		return nil, err
	}
	if err := checkRAUC(chosen[0].Version); err != nil {
		return nil, err
	}
	var files []newc.File
	for _, p := range chosen {
		if err := fetch(ctx, o, root, p); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(root.Path(p))
		if err != nil {
			return nil, err
		}
		files = append(files, newc.Regular("/deb/"+p.Name+".deb", 0o644, data))
	}
	return files, nil
}

// raucOldest is the first RAUC that mounts a verity bundle on Linux 6.19.
var raucOldest = series{1, 15}

func checkRAUC(version string) error {
	m := regexp.MustCompile(`^([0-9]+\.[0-9]+)[.-]`).FindStringSubmatch(version)
	if m == nil {
		return fmt.Errorf("package rauc %.40q: want a version such as %v.2-1", version, raucOldest)
	}
	if v, err := parseSeries(m[1]); err != nil || v.less(raucOldest) {
		return fmt.Errorf("package rauc %s: want %v or later, which works on Linux %v", version, raucOldest, raucNeeds)
	}
	return nil
}

// chooseRAUC returns the packages of the last build, or the mirror's current ones where o asks for
// them or a package is gone.
func chooseRAUC(ctx context.Context, o Options, root *apt.Root) ([]apt.Package, error) {
	path := filepath.Join(o.CacheDir, "apt", fmt.Sprintf("packages-rauc-%s.json", o.Arch))
	var chosen []apt.Package
	if text, err := os.ReadFile(path); err == nil && !o.Update && json.Unmarshal(text, &chosen) == nil {
		all := len(chosen) == len(raucPackages)
		for _, p := range chosen {
			all = all && !strings.ContainsAny(p.File(), "/ ") && root.Check(p) == nil
		}
		if all {
			return chosen, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	stage := o.Progress.Stage("reading package indexes of "+raucSuite, 0)
	chosen = nil
	err := root.Update(ctx)
	for _, name := range raucPackages {
		var p apt.Package
		if err == nil {
			p, err = root.Candidate(ctx, name)
			chosen = append(chosen, p)
		}
	}
	if err != nil {
		stage.Fail(err)
		return nil, err
	}
	stage.Done("rauc " + chosen[0].Version)
	text, err := json.MarshalIndent(chosen, "", "  ")
	if err != nil {
		return nil, err
	}
	return chosen, atomicfile.Write(path, append(text, '\n'), 0o644)
}
