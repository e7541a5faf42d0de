package firmware

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/atomicfile"
)

// suitesOf returns the suites of one of Debian's releases that packages come from. Only the kernel
// of User-Mode Linux needs newer sources, and only the host's architecture has that.
func suitesOf(release string, a arch.Arch) []string {
	if a.IsHost() {
		return []string{release, release + "-backports"}
	}
	return []string{release}
}

// resolved names the packages of a target's last build. The cache keeps it, so that an image with
// another agent needs no network.
type resolved struct {
	Release string      `json:"release,omitempty"` // of Debian; empty: the architecture's newest
	Kernel  apt.Package `json:"kernel"`
	Busybox apt.Package `json:"busybox"`
}

// openRoot opens the private apt root of a release. That of the architecture's newest release is
// named after the architecture alone.
func openRoot(ctx context.Context, o Options, release string) (*apt.Root, error) {
	a, dir := o.row(), o.Arch
	if release != a.Releases[0] {
		dir += "-" + release
	}
	return apt.Open(ctx, apt.Options{
		Dir: filepath.Join(o.CacheDir, "apt", dir), Arch: o.Arch,
		Suites: suitesOf(release, a), Security: release + "-security", Mirror: o.Mirror, Keyring: o.keyring,
	})
}

// fetchError reports a package that could not be fetched. The mirror may have a newer version.
type fetchError struct{ error }

func (e fetchError) Unwrap() error { return e.error }

// collect collects everything in an image except the agent. If packages of the last build are gone
// from cache and mirror, it takes the mirror's current ones. Where the mirror cannot provide a
// release of Debian for the architecture, the next older one that has it is taken.
func collect(ctx context.Context, o Options) (*base, error) {
	releases, last := o.row().Releases, lastRelease(o)
	var errs []error
	for i, release := range releases {
		if !o.Update && last != "" && release != last {
			continue
		}
		b, err := collectRelease(ctx, o, release)
		if err == nil || ctx.Err() != nil {
			return b, err
		}
		errs = append(errs, err)
		if !atMirror(err) || i == len(releases)-1 {
			break
		}
		last = releases[i+1]
		o.Progress.Log("this mirror does not provide %s for %s, taking %s: %v", release, o.Arch, last, err)
	}
	return nil, errors.Join(errs...)
}

// lastRelease returns the release of the last build, or "".
func lastRelease(o Options) string {
	r, err := loadResolved(o)
	if err != nil {
		return ""
	}
	return cmp.Or(r.Release, o.row().Releases[0])
}

// atMirror reports whether an error is about the mirror's packages.
func atMirror(err error) bool {
	var missing fetchError
	return errors.As(err, &missing) || errors.Is(err, apt.ErrNoPackage) || errors.Is(err, apt.ErrIndex)
}

func collectRelease(ctx context.Context, o Options, release string) (*base, error) {
	root, err := openRoot(ctx, o, release)
	if err != nil {
		return nil, err
	}
	r, cached, err := packages(ctx, o, root, release)
	if err != nil {
		return nil, err
	}
	b, err := gather(ctx, o, root, r)
	var missing fetchError
	if !cached || ctx.Err() != nil || !errors.As(err, &missing) {
		return b, err
	}
	o.Progress.Log("the mirror no longer has a package of the last build; asking it for its current ones: %v", err)
	o.Update = true
	if r, _, err = packages(ctx, o, root, release); err != nil {
		return nil, errors.Join(missing, err)
	}
	return gather(ctx, o, root, r)
}

// gather extracts the needed files from the packages.
func gather(ctx context.Context, o Options, root *apt.Root, r *resolved) (b *base, err error) {
	b = &base{packages: []Package{asPackage(r.Kernel), asPackage(r.Busybox)}}
	if o.Target == UML {
		err = collectUML(ctx, o, root, r.Kernel, b)
	} else {
		err = collectDebianKernel(ctx, o, root, r.Kernel, b)
	}
	if err != nil {
		return nil, err
	}
	if err := fetch(ctx, o, root, r.Busybox); err != nil {
		return nil, err
	}
	if b.busybox, err = readBusybox(ctx, root.Path(r.Busybox), o.Arch); err != nil {
		return nil, err
	}
	return b, saveResolved(o, r)
}

func asPackage(p apt.Package) Package {
	return Package{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256}
}

// packages chooses the packages: those of the last build, unless o asks for newer ones or another
// kernel. cached is true for those of the last build.
func packages(ctx context.Context, o Options, root *apt.Root, release string) (r *resolved, cached bool, err error) {
	if last, err := loadResolved(o); err == nil && !o.Update && lastRelease(o) == release && (o.Kernel == "" || last.Kernel.Name == sourcePackage(o.Kernel)) {
		return last, true, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Progress.Log("the cached choice of packages cannot be read, asking the mirror: %v", err)
	}
	stage := o.Progress.Stage("reading package indexes", 0)
	if r, err = resolve(ctx, o, root); err != nil {
		stage.Fail(err)
		return nil, false, err
	}
	r.Release = release
	stage.Done(r.Kernel.Name + " " + r.Kernel.Version)
	return r, false, nil
}

func resolve(ctx context.Context, o Options, root *apt.Root) (*resolved, error) {
	err := root.Update(ctx)
	if errors.Is(err, apt.ErrNoSecurity) && !o.row().IsHost() {
		o.Progress.Log("the packages for %s may lack security updates: %v", o.Arch, err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	var r resolved
	if o.Target == UML {
		r.Kernel, err = newestSource(ctx, root, o.Kernel)
	} else {
		r.Kernel, err = debianKernel(ctx, root, o.row().Kernel)
	}
	if err != nil {
		return nil, err
	}
	r.Busybox, err = root.Candidate(ctx, "busybox-static")
	return &r, err
}

// debianKernel resolves a metapackage to the kernel that it currently depends on.
func debianKernel(ctx context.Context, root *apt.Root, metapackage string) (apt.Package, error) {
	meta, err := root.Candidate(ctx, metapackage)
	if err != nil {
		return apt.Package{}, err
	}
	for dependency := range strings.SplitSeq(meta.Depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(dependency), " ")
		if strings.HasPrefix(name, "linux-image-") {
			return root.Candidate(ctx, name)
		}
	}
	return apt.Package{}, fmt.Errorf("package %s %s depends on no linux-image: %q", meta.Name, meta.Version, meta.Depends)
}

func fetch(ctx context.Context, o Options, root *apt.Root, p apt.Package) error {
	if root.Check(p) == nil {
		return nil
	}
	stage := o.Progress.Bytes("fetching "+p.Name, p.Size)
	if err := root.Fetch(ctx, p, stage.Set); err != nil {
		stage.Fail(err)
		return fetchError{err}
	}
	stage.Done(p.Version)
	return nil
}

func collectDebianKernel(ctx context.Context, o Options, root *apt.Root, p apt.Package, b *base) error {
	if err := fetch(ctx, o, root, p); err != nil {
		return err
	}
	stage := o.Progress.Stage("unpacking "+p.Name, 0)
	err := unpackDebianKernel(ctx, o.row(), root.Path(p), strings.TrimPrefix(p.Name, "linux-image-"), b)
	if err != nil {
		stage.Fail(err)
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	stage.Done("")
	return nil
}

func unpackDebianKernel(ctx context.Context, a arch.Arch, deb, release string, b *base) error {
	if err := needTools(map[string]string{"xz": "xz-utils"}); err != nil {
		return err
	}
	image, modules := "/boot/"+a.Image+"-"+release, "/usr/lib/modules/"+release+"/"
	files, err := readDeb(ctx, deb, func(name string) bool {
		return name == image || strings.HasPrefix(usrMerged(name), modules)
	})
	if err != nil {
		return err
	}
	if files[image] == nil {
		return fmt.Errorf("there is no %s in it", image)
	}
	b.release, b.kernel = release, files[image]
	if a.BzImage {
		if b.kernel, err = vmlinux(ctx, b.kernel); err != nil {
			return err
		}
	}
	tree := map[string][]byte{}
	for name, data := range files {
		if below, ok := strings.CutPrefix(usrMerged(name), modules); ok {
			tree[below] = data
		}
	}
	b.tree = tree
	b.modules, err = newModuleTree(release, tree).moduleFiles(ctx, a.Bus)
	return err
}

// usrMerged maps a file of /lib or /bin to its name in /usr. Debian's packages move there one by
// one.
func usrMerged(name string) string {
	if strings.HasPrefix(name, "/lib/") || strings.HasPrefix(name, "/bin/") {
		return "/usr" + name
	}
	return name
}

func readBusybox(ctx context.Context, deb, arch string) ([]byte, error) {
	files, err := readDeb(ctx, deb, func(name string) bool { return usrMerged(name) == "/usr/bin/busybox" })
	if err != nil {
		return nil, err
	}
	for _, program := range files {
		if err := checkStatic(program, arch); err != nil {
			return nil, fmt.Errorf("busybox of %s: %w", deb, err)
		}
		return program, nil
	}
	return nil, fmt.Errorf("%s has no /bin/busybox", deb)
}

func resolvedPath(o Options) string {
	return filepath.Join(o.CacheDir, "apt", fmt.Sprintf("packages-%s-%s-%s.json", o.Edition, o.Arch, o.Target))
}

func loadResolved(o Options) (*resolved, error) {
	text, err := os.ReadFile(resolvedPath(o))
	if err != nil {
		return nil, err
	}
	var r resolved
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", resolvedPath(o), err)
	}
	for _, p := range []apt.Package{r.Kernel, r.Busybox} {
		if !isSHA256(p.SHA256) || strings.ContainsAny(p.File(), "/ ") {
			return nil, fmt.Errorf("%s: package %q is damaged", resolvedPath(o), p.Name)
		}
	}
	return &r, nil
}

func saveResolved(o Options, r *resolved) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(resolvedPath(o), append(text, '\n'), 0o644)
}
