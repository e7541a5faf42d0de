package firmware

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
)

// The suites that packages come from: Debian 13, and newer kernels for it.
var suites = []string{"trixie", "trixie-backports"}

const securitySuite = "trixie-security"

// resolved names the packages of a target's last build. The cache keeps it, so that an image with
// another agent needs no network.
type resolved struct {
	Kernel  apt.Package `json:"kernel"`
	Busybox apt.Package `json:"busybox"`
}

func openRoot(ctx context.Context, o Options) (*apt.Root, error) {
	return apt.Open(ctx, apt.Options{
		Dir: filepath.Join(o.CacheDir, "apt", o.Arch), Arch: o.Arch,
		Suites: suites, Security: securitySuite, Mirror: o.Mirror, Keyring: o.keyring,
	})
}

// fetchError reports a package that could not be fetched. The mirror may have a newer version.
type fetchError struct{ error }

func (e fetchError) Unwrap() error { return e.error }

// collect collects everything in an image except the agent. If packages of the last build are gone
// from cache and mirror, it takes the mirror's current ones.
func collect(ctx context.Context, o Options) (*base, error) {
	root, err := openRoot(ctx, o)
	if err != nil {
		return nil, err
	}
	r, cached, err := packages(ctx, o, root)
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
	if r, _, err = packages(ctx, o, root); err != nil {
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
func packages(ctx context.Context, o Options, root *apt.Root) (r *resolved, cached bool, err error) {
	if last, err := loadResolved(o); err == nil && !o.Update && (o.Kernel == "" || last.Kernel.Name == sourcePackage(o.Kernel)) {
		return last, true, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Progress.Log("the cached choice of packages cannot be read, asking the mirror: %v", err)
	}
	stage := o.Progress.Stage("reading package indexes", 0)
	if r, err = resolve(ctx, o, root); err != nil {
		stage.Fail(err)
		return nil, false, err
	}
	stage.Done(r.Kernel.Name + " " + r.Kernel.Version)
	return r, false, nil
}

func resolve(ctx context.Context, o Options, root *apt.Root) (*resolved, error) {
	if err := root.Update(ctx); err != nil {
		return nil, err
	}
	var r resolved
	var err error
	if o.Target == UML {
		r.Kernel, err = newestSource(ctx, root, o.Kernel)
	} else {
		r.Kernel, err = cloudKernel(ctx, root, o.Arch)
	}
	if err != nil {
		return nil, err
	}
	r.Busybox, err = root.Candidate(ctx, "busybox-static")
	return &r, err
}

// cloudKernel resolves the metapackage to the kernel that it currently depends on.
func cloudKernel(ctx context.Context, root *apt.Root, arch string) (apt.Package, error) {
	meta, err := root.Candidate(ctx, "linux-image-cloud-"+arch)
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
	err := unpackDebianKernel(ctx, root.Path(p), strings.TrimPrefix(p.Name, "linux-image-"), b)
	if err != nil {
		stage.Fail(err)
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	stage.Done("")
	return nil
}

func unpackDebianKernel(ctx context.Context, deb, release string, b *base) error {
	if err := needTools(map[string]string{"xz": "xz-utils"}); err != nil {
		return err
	}
	image, modules := "/boot/vmlinuz-"+release, "/usr/lib/modules/"+release+"/"
	files, err := readDeb(ctx, deb, func(name string) bool {
		return name == image || strings.HasPrefix(usrMerged(name), modules)
	})
	if err != nil {
		return err
	}
	if files[image] == nil {
		return fmt.Errorf("there is no %s in it", image)
	}
	b.release = release
	if b.kernel, err = vmlinux(ctx, files[image]); err != nil {
		return err
	}
	tree := map[string][]byte{}
	for name, data := range files {
		if below, ok := strings.CutPrefix(usrMerged(name), modules); ok {
			tree[below] = data
		}
	}
	b.tree = tree
	b.modules, err = newModuleTree(release, tree).moduleFiles(ctx)
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
