package firmware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
)

// recipe says how a kernel is built from Debian's linux-source.
type recipe struct {
	name  string // directory in the cache
	title string // for people
	// version is part of the cache key. Raise it when a change of the build changes its result.
	version string
	file    string // that config is of, for people
	config  []byte // options beyond make allnoconfig; each must come out as it stands there
	older   []byte // options set too, but not checked: names that earlier kernels have
	args    []string
	goal    string            // of make
	arches  []string          // directories of arch/ that are unpacked
	needs   []string          // directories that are unpacked though they are in unneeded
	tools   map[string]string // programs that the build runs, and their Debian packages
	steps   int64             // lines that make prints for goal, only for the progress bar
	// check looks for what tools cannot name. May be nil.
	check func(ctx context.Context) error
	// finish makes the files that are kept, in k.out. Kernel is the one that boots.
	finish func(ctx context.Context, k *kernelBuild) error
	kernel string
}

// hash names the recipe's configuration in the cache, by its options alone.
func (r *recipe) hash() string {
	key := r.version + "\n"
	all := options(slices.Concat(r.config, r.older))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		key += name + "=" + all[name] + "\n"
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

// collectKernel takes a recipe's kernel from the cache or builds it. It returns the directory with
// the recipe's files.
func collectKernel(ctx context.Context, o Options, root *apt.Root, r *recipe, source apt.Package, b *base) (dir string, err error) {
	b.config = r.hash()
	dir = filepath.Join(o.CacheDir, r.name, fmt.Sprintf("linux-%s-%s", source.Version, b.config))
	err = readKernel(dir, r, b)
	if errors.Is(err, os.ErrNotExist) {
		if err = buildKernel(ctx, o, root, r, source, dir); err == nil {
			err = readKernel(dir, r, b)
		}
	}
	return dir, err
}

func readKernel(dir string, r *recipe, b *base) error {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return err
	}
	b.release = strings.TrimSpace(string(release))
	b.kernel, err = os.ReadFile(filepath.Join(dir, r.kernel))
	return err
}

// buildKernel builds in a temporary directory and moves the result to dir atomically.
func buildKernel(ctx context.Context, o Options, root *apt.Root, r *recipe, source apt.Package, dir string) error {
	if err := needTools(r.tools); err != nil {
		return err
	}
	if r.check != nil {
		if err := r.check(ctx); err != nil {
			return err
		}
	}
	if err := fetch(ctx, o, root, source); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := removeStale(parent); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, buildPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	k := &kernelBuild{
		recipe: r, o: o, source: source, dir: dir, tree: filepath.Join(work, "src"),
		out: filepath.Join(work, "out"), log: filepath.Join(parent, "build.log"),
	}
	if err := os.Mkdir(k.out, 0o755); err != nil {
		return err
	}
	return k.run(ctx, root.Path(source))
}

const buildPrefix = ".build-"

// removeStale removes the directories of killed builds. The caller holds the cache's lock, so no
// other build is running.
func removeStale(parent string) error {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(parent, buildPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// kernelBuild is one run of a kernel's build.
type kernelBuild struct {
	*recipe
	o      Options
	source apt.Package
	dir    string // where the result goes
	tree   string // the sources
	out    string // what becomes dir
	log    string
}

func (k *kernelBuild) run(ctx context.Context, deb string) error {
	steps := []struct {
		name  string
		total int64
		do    func(context.Context, *counter) error
	}{
		{"unpacking Linux " + k.source.Version, sourceFiles, func(ctx context.Context, c *counter) error { return k.unpack(ctx, deb, c) }},
		{"configuring Linux for " + k.title, 0, k.configure},
		{"compiling Linux", k.steps, k.compile},
		{"trying the kernel", 0, func(ctx context.Context, _ *counter) error { return k.finish(ctx, k) }},
	}
	for _, step := range steps {
		stage := k.o.Progress.Stage(step.name, step.total)
		if err := step.do(ctx, &counter{stage: stage}); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			stage.Fail(err)
			return fmt.Errorf("%s: %w", step.name, err)
		}
		stage.Done("")
	}
	if err := os.RemoveAll(k.dir); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(k.out, 0o755), atomicfile.SyncDir(k.out)); err != nil {
		return err
	}
	if err := os.Rename(k.out, k.dir); err != nil {
		return err
	}
	pruneKernels(k.dir)
	return atomicfile.SyncDir(filepath.Dir(k.dir))
}

// pruneKernels removes the oldest kernels. Images hold copies, and readers of a kernel in the cache
// hold its lock, as the caller does.
func pruneKernels(current string) {
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(current), "linux-*"))
	if err != nil {
		return
	}
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { return dir == current })
	slices.SortFunc(dirs, func(a, b string) int { return modTime(b).Compare(modTime(a)) })
	for _, dir := range dirs[min(len(dirs), keepImages-1):] {
		os.RemoveAll(dir)
	}
}

// environment is the whole environment of the build: neither an outer make nor a user's flags
// affect it. The names and the time go into the kernel's banner.
func (k *kernelBuild) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + k.tree, "TMPDIR=" + os.TempDir(), "LC_ALL=C",
		"KBUILD_BUILD_TIMESTAMP=" + time.Unix(0, 0).UTC().Format(time.UnixDate),
		"KBUILD_BUILD_USER=toe", "KBUILD_BUILD_HOST=toe", "KBUILD_BUILD_VERSION=1",
	}
}
