package firmware

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
)

// umlConfig holds the kernel's options beyond make allnoconfig.
//
//go:embed uml/config
var umlConfig []byte

// umlOlder holds the names that earlier kernels have for options of umlConfig. They are set too,
// but only the newest names are checked.
//
//go:embed uml/config.older
var umlOlder []byte

// umlRecipe is part of the cache key. Raise it when a change of the build changes its result.
const umlRecipe = "1"

// umlOldest is the oldest Linux that runs on all CPUs as User-Mode Linux: earlier versions cannot
// save the registers of a CPU with AMX.
var umlOldest = series{7, 2}

// series is the X.Y of a kernel version.
type series struct{ major, minor int }

func (s series) String() string { return fmt.Sprintf("%d.%d", s.major, s.minor) }

func (s series) less(t series) bool {
	return s.major < t.major || s.major == t.major && s.minor < t.minor
}

var seriesPattern = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})$`)

func parseSeries(text string) (series, error) {
	m := seriesPattern.FindStringSubmatch(text)
	if m == nil {
		return series{}, fmt.Errorf("kernel %q: want X.Y, such as %v", text, umlOldest)
	}
	major, _ := strconv.Atoi(m[1]) // four digits at most
	minor, _ := strconv.Atoi(m[2])
	return series{major, minor}, nil
}

const sourcePrefix = "linux-source-"

func sourcePackage(kernel string) string { return sourcePrefix + kernel }

// newestSource returns the linux-source package: pinned, or the newest.
func newestSource(ctx context.Context, root *apt.Root, pinned string) (apt.Package, error) {
	names, err := root.Names(ctx, sourcePrefix)
	if err != nil {
		return apt.Package{}, err
	}
	s, err := pickSeries(names, pinned)
	if err != nil {
		return apt.Package{}, err
	}
	return root.Candidate(ctx, sourcePackage(s.String()))
}

func pickSeries(names []string, pinned string) (series, error) {
	var offered []series
	for _, name := range names {
		if s, err := parseSeries(strings.TrimPrefix(name, sourcePrefix)); err == nil && !s.less(umlOldest) {
			offered = append(offered, s)
		}
	}
	slices.SortFunc(offered, func(a, b series) int {
		if a.less(b) {
			return 1
		}
		return -1
	})
	if pinned == "" {
		if len(offered) == 0 {
			return series{}, fmt.Errorf("%w: the mirror has no linux-source of %v or later in %s", apt.ErrNoPackage, umlOldest, strings.Join(suites, ", "))
		}
		return offered[0], nil
	}
	want, err := parseSeries(pinned)
	switch {
	case err != nil:
		return series{}, err
	case want.less(umlOldest):
		return series{}, fmt.Errorf("kernel %s: User-Mode Linux before %v fails on CPUs with AMX", pinned, umlOldest)
	case !slices.Contains(offered, want):
		return series{}, fmt.Errorf("%w: the mirror has no %s; it has %v", apt.ErrNoPackage, sourcePackage(pinned), offered)
	}
	return want, nil
}

// collectUML takes the User-Mode Linux kernel from the cache or builds it.
func collectUML(ctx context.Context, o Options, root *apt.Root, source apt.Package, b *base) error {
	b.config = configHash(slices.Concat(umlConfig, umlOlder))
	dir := filepath.Join(o.CacheDir, "uml", fmt.Sprintf("linux-%s-%s", source.Version, b.config))
	err := readUML(dir, b)
	if errors.Is(err, os.ErrNotExist) {
		if err = buildUML(ctx, o, root, source, dir); err == nil {
			err = readUML(dir, b)
		}
	}
	return err
}

// configHash names a configuration in the cache, by its options alone.
func configHash(config []byte) string {
	key := umlRecipe + "\n"
	all := options(config)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		key += name + "=" + all[name] + "\n"
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

// builtinInfo is what the kernel's build knows of the modules that are built in.
const builtinInfo = "modules.builtin.modinfo"

// builtinModules makes modules.builtin, which depmod reads, of NUL-terminated MODULE.KEY=VALUE. The
// value of the key file is the module's path without its ending.
func builtinModules(info []byte) []byte {
	var b bytes.Buffer
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		if strings.HasSuffix(key, ".file") {
			fmt.Fprintf(&b, "kernel/%s.ko\n", value)
		}
	}
	return b.Bytes()
}

func readUML(dir string, b *base) error {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return err
	}
	b.release = strings.TrimSpace(string(release))
	if b.kernel, err = os.ReadFile(filepath.Join(dir, "linux")); err != nil {
		return err
	}
	info, err := os.ReadFile(filepath.Join(dir, builtinInfo))
	if errors.Is(err, os.ErrNotExist) {
		return nil // built by an older toe: modprobe of what is built in fails
	}
	b.tree = map[string][]byte{builtinInfo: info, "modules.builtin": builtinModules(info), "modules.order": nil}
	return err
}

// umlTools maps the programs that the build runs to their packages.
var umlTools = map[string]string{
	"gcc": "gcc", "ld": "binutils", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc",
	"xz": "xz-utils", "perl": "perl", "strip": "binutils", "awk": "mawk", "sed": "sed",
}

// buildUML builds the kernel in a temporary directory and moves the result to dir atomically.
func buildUML(ctx context.Context, o Options, root *apt.Root, source apt.Package, dir string) error {
	if err := needTools(umlTools); err != nil {
		return err
	}
	if err := checkStaticLibc(ctx); err != nil {
		return err
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
	u := &umlBuild{
		o: o, source: source, dir: dir, tree: filepath.Join(work, "src"),
		out: filepath.Join(work, "out"), log: filepath.Join(parent, "build.log"),
	}
	if err := os.Mkdir(u.out, 0o755); err != nil {
		return err
	}
	return u.run(ctx, root.Path(source))
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

// checkStaticLibc links a program. The package that has libc.a depends on the distribution; whether
// gcc finds it does not.
func checkStaticLibc(ctx context.Context) error {
	var complaint bytes.Buffer
	cmd := command(ctx, "gcc", "-static", "-o", os.DevNull, "-xc", "-")
	cmd.Stdin, cmd.Stderr = strings.NewReader("int main(void) { return 0; }\n"), &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: gcc cannot link a static program; fix: apt-get install libc6-dev\n%s",
			ErrTools, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// umlBuild is one run of the kernel's build.
type umlBuild struct {
	o      Options
	source apt.Package
	dir    string // where the result goes
	tree   string // the sources
	out    string // what becomes dir
	log    string
}

func (u *umlBuild) run(ctx context.Context, deb string) error {
	steps := []struct {
		name  string
		total int64
		do    func(context.Context, *counter) error
	}{
		{"unpacking Linux " + u.source.Version, sourceFiles, func(ctx context.Context, c *counter) error { return u.unpack(ctx, deb, c) }},
		{"configuring Linux for User-Mode Linux", 0, u.configure},
		{"compiling Linux", compileSteps, u.compile},
		{"trying the kernel", 0, u.try},
	}
	for _, step := range steps {
		stage := u.o.Progress.Stage(step.name, step.total)
		if err := step.do(ctx, &counter{stage: stage}); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			stage.Fail(err)
			return fmt.Errorf("%s: %w", step.name, err)
		}
		stage.Done("")
	}
	if err := os.RemoveAll(u.dir); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(u.out, 0o755), atomicfile.SyncDir(u.out)); err != nil {
		return err
	}
	if err := os.Rename(u.out, u.dir); err != nil {
		return err
	}
	pruneKernels(u.dir)
	return atomicfile.SyncDir(filepath.Dir(u.dir))
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
func (u *umlBuild) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.tree, "TMPDIR=" + os.TempDir(), "LC_ALL=C",
		"KBUILD_BUILD_TIMESTAMP=" + time.Unix(0, 0).UTC().Format(time.UnixDate),
		"KBUILD_BUILD_USER=toe", "KBUILD_BUILD_HOST=toe", "KBUILD_BUILD_VERSION=1",
	}
}
