package firmware

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

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

// umlRecipe builds User-Mode Linux: a kernel that is a program.
var umlRecipe = recipe{
	name: "uml", title: "User-Mode Linux", version: "1",
	file: "firmware/uml/config", config: umlConfig, older: umlOlder,
	args: []string{"ARCH=um", "SUBARCH=x86_64"}, arches: []string{"um", "x86"},
	tools: umlTools, check: checkStaticLibc, goal: "linux", steps: compileSteps,
	kernel: "linux", finish: tryUML,
}

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
			return series{}, fmt.Errorf("%w: the mirror has no linux-source of %v or later in %s", apt.ErrNoPackage, umlOldest, "this release and its backports")
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
	dir, err := collectKernel(ctx, o, root, &umlRecipe, source, b)
	if err != nil {
		return err
	}
	info, err := os.ReadFile(filepath.Join(dir, builtinInfo))
	if errors.Is(err, os.ErrNotExist) {
		return nil // built by an older toe: modprobe of what is built in fails
	}
	b.tree = map[string][]byte{builtinInfo: info, "modules.builtin": builtinModules(info), "modules.order": nil}
	return err
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

// umlTools maps the programs that the build runs to their packages.
var umlTools = map[string]string{
	"gcc": "gcc", "ld": "binutils", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc",
	"xz": "xz-utils", "perl": "perl", "strip": "binutils", "awk": "mawk", "sed": "sed",
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

// tryUML strips the kernel and checks that it starts and reports the release that was built.
func tryUML(ctx context.Context, k *kernelBuild) error {
	kernel := filepath.Join(k.out, "linux")
	if out, err := command(ctx, "strip", "-o", kernel, filepath.Join(k.tree, "linux")).CombinedOutput(); err != nil {
		return fmt.Errorf("strip: %w: %s", err, bytes.TrimSpace(out))
	}
	info, err := os.ReadFile(filepath.Join(k.tree, builtinInfo))
	if err == nil {
		err = os.WriteFile(filepath.Join(k.out, builtinInfo), info, 0o644)
	}
	if err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(k.tree, "include/config/kernel.release"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	said, err := command(ctx, kernel, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s --version: %w: %s", kernel, err, bytes.TrimSpace(said))
	}
	if !bytes.Equal(bytes.TrimSpace(said), bytes.TrimSpace(release)) {
		return fmt.Errorf("%s --version says %q, built was %q", kernel, bytes.TrimSpace(said), bytes.TrimSpace(release))
	}
	return atomicfile.Write(filepath.Join(k.out, "release"), release, 0o644)
}
