package firmware

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/progress"
)

// Counted with Linux 7.3 and our configuration, only for the progress bars.
const (
	sourceFiles  = 21500 // files unpacked
	compileSteps = 1550  // lines that make prints
)

const (
	logTail  = 25 // lines of the log in an error
	tryLimit = 20 * time.Second
)

// counter counts steps of a stage, which may be nil.
type counter struct{ stage *progress.Stage }

func (c *counter) one() { c.stage.Add(1) }

// unpack unpacks the sources. The package holds them as one tar.xz.
func (k *kernelBuild) unpack(ctx context.Context, deb string, c *counter) error {
	if err := os.Mkdir(k.tree, 0o755); err != nil {
		return err
	}
	found := false
	err := walkDeb(ctx, deb, func(name string, r io.Reader) error {
		if !strings.HasPrefix(name, "/usr/src/") || !strings.HasSuffix(name, ".tar.xz") {
			return nil
		}
		found = true
		if err := k.unpackTarXz(ctx, r, c); err != nil {
			return err
		}
		return errEnough
	})
	if err == nil && !found {
		err = fmt.Errorf("%s: no /usr/src/*.tar.xz in it", deb)
	}
	return err
}

func (k *kernelBuild) unpackTarXz(ctx context.Context, compressed io.Reader, c *counter) error {
	var complaint bytes.Buffer
	cmd := command(ctx, "xz", "-dc", "-T0")
	cmd.Stdin, cmd.Stderr = compressed, &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = k.writeTree(bufio.NewReaderSize(out, 1<<20), c)
	if err != nil {
		out.Close() // SIGPIPE ends xz
	}
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("xz -dc: %w: %s", waitErr, strings.TrimSpace(complaint.String()))
	}
	return err
}

func (k *kernelBuild) configure(ctx context.Context, _ *counter) error {
	fragment := filepath.Join(k.tree, "toe.config")
	if err := os.WriteFile(fragment, slices.Concat(k.config, k.older), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(k.log, nil, 0o644); err != nil {
		return err
	}
	if err := k.make(ctx, nil, jobs(), "KCONFIG_ALLCONFIG="+fragment, "allnoconfig"); err != nil {
		return err
	}
	if err := checkSources(k.tree, k.recipe); err != nil {
		return fmt.Errorf("sources of Linux %s: %w", k.source.Version, err)
	}
	got, err := os.ReadFile(filepath.Join(k.tree, ".config"))
	if err != nil {
		return err
	}
	if err := checkConfig(k.recipe, got); err != nil {
		return fmt.Errorf("configuration of Linux %s: %w", k.source.Version, err)
	}
	return os.WriteFile(filepath.Join(k.out, "config"), got, 0o644)
}

// checkConfig compares the options asked for with the resulting configuration. Kconfig silently
// drops options that no longer exist or whose dependencies are missing.
func checkConfig(r *recipe, got []byte) error {
	have := options(got)
	var lost []string
	for name, want := range options(r.config) {
		if is := orElse(have[name], "n"); is != want {
			lost = append(lost, fmt.Sprintf("%s=%s is %s", name, want, is))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("options of %s that did not come out as asked:\n  %s", r.file, strings.Join(lost, "\n  "))
}

// options parses CONFIG_X=value and "# CONFIG_X is not set" lines.
func options(config []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(string(config)) {
		line = strings.TrimSpace(line)
		if unset, ok := strings.CutPrefix(line, "# CONFIG_"); ok {
			if name, ok := strings.CutSuffix(unset, " is not set"); ok {
				all["CONFIG_"+name] = "n"
			}
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			all[name] = value
		}
	}
	return all
}

func (k *kernelBuild) compile(ctx context.Context, c *counter) error {
	return k.make(ctx, c, jobs(), k.goal)
}

// jobs returns one more than the number of CPUs, because a job at times waits for the disk or a
// sub-make.
func jobs() string { return fmt.Sprintf("-j%d", runtime.NumCPU()+1) }

// make runs the kernel's build with its output in the log. c counts the lines.
func (k *kernelBuild) make(ctx context.Context, c *counter, args ...string) error {
	log, err := os.OpenFile(k.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := command(ctx, "make", append([]string{"-C", k.tree}, slices.Concat(k.args, args)...)...)
	cmd.Env = k.environment()
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, lineCounter{c}), log
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("make %s: %w; the end of %s:\n%s", strings.Join(args, " "), err, k.log, tail(k.log, logTail))
	}
	return nil
}

type lineCounter struct{ c *counter }

func (l lineCounter) Write(b []byte) (int, error) {
	if l.c != nil {
		l.c.stage.Add(int64(bytes.Count(b, []byte{'\n'})))
	}
	return len(b), nil
}

// tail returns the last n lines of a log.
func tail(name string, n int) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
