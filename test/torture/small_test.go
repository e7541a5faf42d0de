package torture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/firmware/firmwaretest"
	"github.com/toe-project/toe/firmware/release"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// What the small system has of edition debian, besides the libraries that these need.
var (
	smallPrograms = []string{
		"/usr/sbin/toe-agent", "/usr/bin/rauc", "/usr/bin/dbus-daemon", "/usr/sbin/sshd",
		"/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth", "/usr/bin/fw_printenv",
		"/usr/sbin/e2fsck", "/usr/sbin/mke2fs", "/usr/sbin/resize2fs", "/usr/sbin/blockdev",
		"/usr/bin/dash", "/usr/bin/cp", "/usr/bin/cat", "/usr/bin/mkdir", "/usr/bin/mv", "/usr/bin/rm", "/usr/bin/rmdir",
		"/usr/bin/sed", "/usr/bin/stat", "/usr/bin/logger", "/usr/bin/sleep", "/usr/bin/head", "/usr/bin/sync",
	}
	smallFiles = []string{
		"/usr/lib/toe/rauc-config", "/usr/lib/toe/rauc-check", "/usr/lib/rauc/system.conf", "/etc/fw_env.config",
		"/etc/ssh/sshd_config.d/toe.conf", "/usr/share/dbus-1/system.conf",
		"/usr/share/dbus-1/system.d/de.pengutronix.rauc.conf", "/etc/dbus-1/system.conf", "/etc/mke2fs.conf",
	}
	smallLinks = map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
		"usr/bin/sh": "dash", "usr/bin/fw_setenv": "fw_printenv", "usr/sbin/mkfs.ext4": "mke2fs",
		"usr/bin/systemctl":              "../sbin/init",
		"usr/lib64/ld-linux-x86-64.so.2": "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
		"var/run":                        "/run", "var/lock": "/run/lock",
	}
	smallDirs = []string{
		"data", "dev", "proc", "sys", "run", "tmp", "root", "home", "srv", "mnt", "usr/local", "usr/lib64", "var/log",
		"var/lib", "var/tmp", "var/empty", "etc/ssh", "usr/sbin", "usr/bin",
	}
	smallTexts = map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:101:101::/nonexistent:/bin/false\n" +
			"sshd:x:102:65534::/run/sshd:/bin/false\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
		"etc/group":           "root:x:0:\nmessagebus:x:101:\nnogroup:x:65534:\n",
		"etc/shells":          "/bin/sh\n",
		"etc/machine-id":      "",
		"etc/resolv.conf":     "",
		"etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nPidFile none\n",
	}
)

const libDir = "/usr/lib/x86_64-linux-gnu"

// cacheDir is where the images of this host are.
func cacheDir() string {
	if dir := os.Getenv("TOE_CACHE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/toe"
}

// small is the small system: its releases, and what else a card needs.
type small struct {
	dir   string
	cache string // of the small images
	from  *firmware.Image
	files *firmware.Files // of from
	tree  string          // the root, as a folder
	keys  *release.Keys
}

// need runs a program of the host, which the test brings.
func need(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("%v; fix: `apt install e2fsprogs rauc squashfs-tools`", err)
	}
	if err != nil {
		t.Fatalf("%s %q: %v: %s%s", name, args, err, out, complaint.Bytes())
	}
	return out
}

func newSmall(t *testing.T) *small {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for its network namespace")
	}
	if arch.Host().Name != "amd64" {
		t.Skip("User-Mode Linux is for amd64")
	}
	img, err := firmware.Find(cacheDir(), firmware.Debian, machine.UML, arch.Host().Name)
	if errors.Is(err, firmware.ErrNotBuilt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &small{dir: t.TempDir(), from: img}
	s.cache, s.tree = filepath.Join(s.dir, "cache"), filepath.Join(s.dir, "tree")
	if s.files, err = img.Files(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.files.Close() })
	if s.keys, err = release.Init(filepath.Join(s.dir, "keys"), release.Options{}); err != nil {
		t.Fatal(err)
	}
	s.fill(t)
	return s
}

// fill makes the tree of the small root.
func (s *small) fill(t *testing.T) {
	whole := filepath.Join(s.dir, "debian.ext4")
	f, err := os.Create(whole)
	if err != nil {
		t.Fatal(err)
	}
	size, err := firmware.WriteRoot(t.Context(), s.files.Root, f, 1<<40, nil)
	if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(whole)
	s.make(t, smallDirs)
	need(t, "debugfs", "-R", "rdump "+libDir+" "+s.dir, whole)
	libs := filepath.Join(s.dir, path.Base(libDir))
	defer os.RemoveAll(libs)
	var script strings.Builder
	for _, name := range append(smallPrograms, smallFiles...) {
		s.make(t, []string{path.Dir(name)})
		fmt.Fprintf(&script, "dump -p %s %s\n", name, filepath.Join(s.tree, name))
	}
	commands := filepath.Join(s.dir, "commands")
	write(t, commands, script.String())
	need(t, "debugfs", "-f", commands, whole)
	for name, to := range smallLinks {
		if err := os.Symlink(to, filepath.Join(s.tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range smallTexts {
		write(t, filepath.Join(s.tree, name), text)
	}
	ring, err := release.ReadKeyring(s.keys.Keyring())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.tree, "usr/lib/rauc/keyring.pem"), string(ring))
	for _, name := range smallPrograms {
		s.libraries(t, libs, filepath.Join(s.tree, name))
	}
	s.libraries(t, libs, filepath.Join(libs, "ld-linux-x86-64.so.2"))
	copyFile(t, filepath.Join(libs, "ld-linux-x86-64.so.2"), filepath.Join(s.tree, libDir, "ld-linux-x86-64.so.2"))
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(s.tree, "usr/sbin/init"), "./init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./init: %v: %s", err, out)
	}
}

func (s *small) make(t *testing.T, dirs []string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(s.tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// libraries copies the libraries that a program needs, and those that they need.
func (s *small) libraries(t *testing.T, from, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return // it is static
	}
	s.make(t, []string{libDir})
	for _, name := range names {
		to := filepath.Join(s.tree, libDir, name)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		lib := filepath.Join(from, name)
		if _, err := os.Stat(lib); errors.Is(err, fs.ErrNotExist) { // systemd's own folder
			t.Fatalf("%s needs %s, and the image has none", program, name)
		}
		copyFile(t, lib, to)
		s.libraries(t, from, lib)
	}
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// releaseFile says in a root which release it is of.
const releaseFile = "/etc/toe-release"

// release makes an image of the small system.
func (s *small) release(t *testing.T, name string) *firmware.Image {
	t.Helper()
	write(t, filepath.Join(s.tree, releaseFile), name+"\n")
	root := filepath.Join(s.dir, name+".ext4")
	need(t, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "1", "-J", "size=4", "-L", "toe-root", "-E", "root_owner=0:0",
		"-d", s.tree, root, "64M")
	data, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(s.files.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := os.ReadFile(s.files.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	m := s.from.Manifest
	m.Version = "1-" + name
	return firmwaretest.Pack(t, s.cache, m, []firmwaretest.Content{
		{Name: "kernel", Data: kernel}, {Name: "initramfs", Data: initramfs},
		{Name: "root.ext4.zst", Data: enc.EncodeAll(data, nil)},
	})
}

// bundle makes the signed bundle of an image and returns its path.
func (s *small) bundle(t *testing.T, img *firmware.Image, version string) string {
	t.Helper()
	files, err := img.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	out := filepath.Join(s.dir, version+".raucb")
	err = s.keys.Make(t.Context(), release.Bundle{
		Compatible: img.Compatible(), Version: version,
		Images: []release.Image{
			{Slot: release.BootSlot, Name: release.BootImage, Write: func(f *os.File) error {
				_, _, err := img.WriteBoot(f)
				return err
			}},
			{Slot: release.RootSlot, Name: release.RootImage, Write: func(f *os.File) error {
				size, err := firmware.WriteRoot(context.Background(), files.Root, f, 1<<40, nil)
				return errors.Join(err, f.Truncate(size))
			}},
		},
	}, out, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sums are the digests of the root's files by name, the name of the release aside.
func (s *small) sums(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(s.tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		out[strings.TrimPrefix(name, s.tree)] = sum(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(out, releaseFile)
	return out
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return string(h[:])
}
