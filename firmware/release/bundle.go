package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrTools means that a program is not installed. The message has the command that installs it.
var ErrTools = errors.New("programs are missing")

// Bundle is what a signed bundle has in it: the images for one slot of a card.
type Bundle struct {
	Compatible  string // the cards that it is for, as their system.conf has it
	Version     string // see CheckVersion
	Description string // for people, one line
	Images      []Image
}

// Image is one image of a bundle.
type Image struct {
	Slot  string // class of the slot: boot or rootfs
	Name  string // of the file in the bundle; RAUC takes the kind of image from its suffix
	Write func(*os.File) error
}

// Slots of a card, and the names of their images.
const (
	BootSlot, BootImage = "boot", "boot.img"
	RootSlot, RootImage = "rootfs", "rootfs.ext4"
)

// versionPattern is a semantic version with one to three numbers. RAUC compares versions so.
var versionPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,2}(-[0-9A-Za-z.-]{1,40})?$`)

// CheckVersion rejects a version that cards cannot compare.
func CheckVersion(v string) error {
	if !versionPattern.MatchString(v) {
		return fmt.Errorf("version %.60q: want up to three numbers, such as 2026.1128.915 or 1.4.2-rc1", v)
	}
	return nil
}

// VersionAt is the version of a bundle made at a time, in UTC: year, month and day, hour and minute.
func VersionAt(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%d.%d.%d", t.Year(), int(t.Month())*100+t.Day(), t.Hour()*100+t.Minute())
}

var linePattern = regexp.MustCompile(`^[ -~]{0,200}$`)

func (b Bundle) check() error {
	if err := CheckVersion(b.Version); err != nil {
		return err
	}
	if !linePattern.MatchString(b.Compatible) || b.Compatible == "" {
		return fmt.Errorf("compatible %.60q: want printable ASCII", b.Compatible)
	}
	if !linePattern.MatchString(b.Description) {
		return fmt.Errorf("description %.60q: want one line of at most 200 printable ASCII characters", b.Description)
	}
	return nil
}

// manifest is RAUC's manifest. RAUC adds sizes and hashes.
func (b Bundle) manifest() []byte {
	var m bytes.Buffer
	fmt.Fprintf(&m, "[update]\ncompatible=%s\nversion=%s\n", b.Compatible, b.Version)
	if b.Description != "" {
		fmt.Fprintf(&m, "description=%s\n", b.Description)
	}
	fmt.Fprint(&m, "\n[bundle]\nformat=verity\n")
	for _, i := range b.Images {
		fmt.Fprintf(&m, "\n[image.%s]\nfilename=%s\n", i.Slot, i.Name)
	}
	return m.Bytes()
}

// tools maps the programs that make a bundle to their packages. RAUC 1.8 of Debian 12 is new enough.
var tools = map[string]string{"rauc": "rauc", "mksquashfs": "squashfs-tools"}

func needTools() error {
	var programs, packages []string
	for program, name := range tools {
		if _, err := exec.LookPath(program); err != nil {
			programs, packages = append(programs, program), append(packages, name)
		}
	}
	if len(programs) == 0 {
		return nil
	}
	slices.Sort(programs)
	slices.Sort(packages)
	return fmt.Errorf("%w: %s; fix: apt-get install %s",
		ErrTools, strings.Join(programs, ", "), strings.Join(packages, " "))
}

// Make writes a signed verity bundle to path, which it replaces. It needs no privilege. The bundle is
// checked with the keyring before it gets its name. step is told what is being done.
func (k *Keys) Make(ctx context.Context, b Bundle, path string, step func(string)) error {
	if err := b.check(); err != nil {
		return err
	}
	if err := needTools(); err != nil {
		return err
	}
	if err := k.Usable(time.Now()); err != nil {
		return err
	}
	// Beside the bundle is room for one; it is renamed at the end.
	work, err := os.MkdirTemp(filepath.Dir(path), ".bundle-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	step("writing images")
	in := filepath.Join(work, "in")
	if err := b.fill(in); err != nil {
		return err
	}
	step("compressing and signing")
	out := filepath.Join(work, "out.raucb")
	args := []string{"bundle", "--cert=" + k.Release(), "--key=" + k.Release(),
		// Compression in one thread gives the same bytes everywhere, and zstd's are read fast.
		"--mksquashfs-args=-comp zstd -Xcompression-level 9 -processors 2 -all-root -mkfs-time 0 -all-time 0"}
	if k.HasChain() {
		args = append(args, "--intermediate="+k.Chain())
	}
	if _, err := run(ctx, work, "rauc", append(args, in, out)...); err != nil {
		return err
	}
	step("checking the signature")
	if err := k.verifyBundle(ctx, work, out, b); err != nil {
		return err
	}
	if err := syncFile(out); err != nil {
		return err
	}
	return os.Rename(out, path)
}

// fill makes the folder that becomes the bundle.
func (b Bundle) fill(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, i := range b.Images {
		f, err := os.OpenFile(filepath.Join(dir, i.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(i.Write(f), f.Close()); err != nil {
			return fmt.Errorf("image %s: %w", i.Name, err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "manifest.raucm"), b.manifest(), 0o600)
}

// verifyBundle checks a bundle as a card would, with the same purpose of certificates.
func (k *Keys) verifyBundle(ctx context.Context, work, bundle string, b Bundle) error {
	conf := fmt.Sprintf("[system]\ncompatible=%s\nbootloader=noop\n[keyring]\npath=%s\ncheck-purpose=codesign\n",
		b.Compatible, k.Keyring())
	name := filepath.Join(work, "system.conf")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		return err
	}
	_, err := run(ctx, work, "rauc", "--conf="+name, "info", bundle)
	return err
}

// grace is how long a program may take to end after it was told to.
const grace = 5 * time.Second

// run runs a program and returns what it wrote. The error contains that.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, lastLine(out))
	}
	return out, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// CopyTo is an Image's Write that copies a file.
func CopyTo(path string) func(*os.File) error {
	return func(f *os.File) error {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
			return &fs.PathError{Op: "copy", Path: path, Err: fs.ErrInvalid}
		}
		_, err = io.Copy(f, in)
		return err
	}
}
