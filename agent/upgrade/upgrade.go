// Package upgrade brings the packages of a card up to date in a copy of its root: in the slot beside the
// running one, which stays as it is. Run does the work, as the first process of name spaces of its own: when
// it ends, for whatever reason, the kernel ends its programs and removes its mounts. The agent decides
// whether it may run, and changes the boot environment before and after it.
package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/dpkg"
)

const (
	// Kernel is the package with the kernel. dpkg holds it on a running card.
	Kernel = "toe-kernel"
	// BootDir has what the package Kernel provides for the image file of a boot slot.
	BootDir = "/usr/lib/toe/boot"
	// Flashed lists the packages of the image that the card was flashed with: name, version, architecture.
	Flashed = "/usr/lib/toe/packages"

	agentProgram = "/usr/sbin/toe-agent"
	statusFile   = "var/lib/dpkg/status"
)

// Job says what Run does.
type Job struct {
	Root    string    `json:"root"`   // device of the root to write
	Boot    string    `json:"boot"`   // device of the image file to write
	Active  string    `json:"active"` // device of the image file of the running slot
	DataEtc string    `json:"etc"`    // upper layer of the running /etc; empty where /etc is the root's own
	Work    string    `json:"work"`   // folder for mount points
	Time    time.Time `json:"time"`   // of the upgrade, for the image's manifest
}

// Step is a line that Run writes, in JSON.
type Step struct {
	Percent int      `json:"percent"`
	Text    string   `json:"text,omitempty"`
	Error   string   `json:"error,omitempty"` // the last line, where it failed
	Done    bool     `json:"done,omitempty"`  // the last line, where it did not
	Changes []string `json:"changes,omitempty"`
}

// worker is one run.
type worker struct {
	Job
	out      *json.Encoder
	from, to string // the two roots
	percent  int
}

// Run reads a job from in, does it and writes its steps to out. It expects to be the first process of a
// PID name space, in a mount name space of its own. It ends the process when in ends: whoever started it
// is gone.
func Run(ctx context.Context, in io.Reader, out io.Writer) error {
	w := &worker{out: json.NewEncoder(out)}
	// The agent comes before other programs, this work after them, also when memory is short.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 5)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	job := json.NewDecoder(in)
	err := job.Decode(&w.Job)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(1)
	}()
	var changes []string
	if err == nil {
		changes, err = w.run(ctx)
	}
	if err != nil {
		_ = w.out.Encode(Step{Percent: w.percent, Error: err.Error()})
		return err
	}
	return w.out.Encode(Step{Percent: 100, Done: true, Changes: changes})
}

func (w *worker) say(percent int, format string, args ...any) {
	w.percent = max(percent, w.percent)
	_ = w.out.Encode(Step{Percent: w.percent, Text: fmt.Sprintf(format, args...)})
}

func (w *worker) run(ctx context.Context) ([]string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("mount name space: %w", err)
	}
	w.from, w.to = filepath.Join(w.Work, "from"), filepath.Join(w.Work, "to")
	if err := errors.Join(os.MkdirAll(w.from, 0o700), os.MkdirAll(w.to, 0o700)); err != nil {
		return nil, err
	}
	// The root alone, without what is mounted over it.
	if err := unix.Mount("/", w.from, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount / on %s: %w", w.from, err)
	}
	unlock, err := lockDpkg("/var/lib/dpkg")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := w.clone(ctx); err != nil {
		return nil, err
	}
	if err := w.upgrade(ctx); err != nil {
		return nil, err
	}
	changes, packages, err := w.compare()
	if err != nil {
		return nil, err
	}
	w.say(90, "writing the boot slot")
	if err := w.writeBoot(packages); err != nil {
		return nil, fmt.Errorf("image file of the boot slot: %w", err)
	}
	w.say(95, "checking the file system")
	if err := w.finish(ctx); err != nil {
		return nil, err
	}
	return changes, nil
}

// lockDpkg takes the locks of dpkg and apt, so that no package changes while its root is copied. They are
// held until the end: what apt changed meanwhile would be missing in the copy.
func lockDpkg(dir string) (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			_ = f.Close()
		}
	}
	for _, name := range []string{"lock-frontend", "lock"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o640)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, f)
		if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			unlock()
			return nil, fmt.Errorf("apt or dpkg runs on the card: %s: %w; want it to end first", f.Name(), err)
		}
	}
	return unlock, nil
}

// clone makes a file system in the other slot and copies the root to it.
func (w *worker) clone(ctx context.Context) error {
	w.say(1, "making a file system on %s", w.Root)
	if err := w.command(ctx, "", "/sbin/mkfs.ext4", "-q", "-F", "-m", "1", "-L", "toe-root", w.Root); err != nil {
		return err
	}
	if err := unix.Mount(w.Root, w.to, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", w.Root, err)
	}
	w.say(3, "copying the root")
	stop := w.watchCopy(3, 40)
	err := w.command(ctx, "", "/bin/cp", "-a", "--one-file-system", w.from+"/.", w.to)
	stop()
	if err != nil {
		return err
	}
	for _, dir := range []string{"tmp", "var/tmp", layerDir} {
		if err := emptyDir(filepath.Join(w.to, dir)); err != nil {
			return err
		}
	}
	return nil
}

// watchCopy reports how far a copy is, from percent low to high, until it is stopped.
func (w *worker) watchCopy(low, high int) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(500 * time.Millisecond):
			}
			from, to := used(w.from), used(w.to)
			if from > 0 {
				w.say(low+int(min(to*uint64(high-low)/from, uint64(high-low))), "copying the root")
			}
		}
	}()
	return func() { close(done); <-ended }
}

// used returns the bytes that a file system holds.
func used(path string) uint64 {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return 0
	}
	return (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
}

// emptyDir removes what is in a folder, which may be missing.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// compare returns what the upgrade changed, a line each, and the packages of the new root.
func (w *worker) compare() (changes []string, packages []dpkg.Package, err error) {
	before, err := readStatus(w.from)
	if err != nil {
		return nil, nil, err
	}
	after, err := readStatus(w.to)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range Compare(before, after) {
		changes = append(changes, c.String())
	}
	return changes, after, nil
}

func readStatus(root string) ([]dpkg.Package, error) {
	text, err := os.ReadFile(filepath.Join(root, statusFile))
	if err != nil {
		return nil, err
	}
	return dpkg.Parse(text)
}

// finish unmounts the new root, so that all of it is on the disk, and checks its file system.
func (w *worker) finish(ctx context.Context) error {
	if err := unix.Unmount(w.to, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", w.Root, err)
	}
	if err := w.command(ctx, "", "/sbin/e2fsck", "-f", "-n", w.Root); err != nil {
		return fmt.Errorf("the new root is damaged: %w", err)
	}
	for _, path := range []string{w.Root, w.Boot} {
		if err := syncFile(path); err != nil {
			return err
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Change is a package that differs between two roots. An empty version means that it is missing there.
type Change struct{ Name, From, To string }

func (c Change) String() string {
	switch {
	case c.From == "":
		return fmt.Sprintf("+ %s %s", c.Name, c.To)
	case c.To == "":
		return fmt.Sprintf("- %s %s", c.Name, c.From)
	}
	return fmt.Sprintf("%s %s -> %s", c.Name, c.From, c.To)
}

// Compare returns the packages that differ between two lists, by name.
func Compare(before, after []dpkg.Package) (changes []Change) {
	was := map[string]string{}
	for _, p := range before {
		was[p.Name] = p.Version
	}
	for _, p := range after {
		if was[p.Name] != p.Version {
			changes = append(changes, Change{p.Name, was[p.Name], p.Version})
		}
		delete(was, p.Name)
	}
	for name, version := range was {
		changes = append(changes, Change{name, version, ""})
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// ReadFlashed returns the packages of the image that a root was flashed with.
func ReadFlashed(path string) (packages []dpkg.Package, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: %.60q: want name, version and architecture", path, line)
		}
		packages = append(packages, dpkg.Package{Name: f[0], Version: f[1], Arch: f[2]})
	}
	return packages, nil
}

// NewSpaces is what a process needs in which Run is to run.
func NewSpaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Setpgid: true,
	}
}
