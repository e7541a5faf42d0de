package upgrade

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/toe-project/toe/internal/dpkg"
	"github.com/toe-project/toe/internal/newc"
)

// The image file of a boot slot is a tar: manifest.json, kernel, initramfs (package firmware has the
// format). That of an upgraded root is made of what its packages provide: the kernel and the initramfs of
// the package toe-kernel, and the program of toe-agent as /init. What the manifest of the running slot says
// of edition, architecture and machines stays.

const maxManifest = 1 << 20 // bytes

// content is a member of the image file: some bytes and files, one after the other.
type content struct {
	name  string
	mode  int64
	parts []io.ReadSeeker
	size  int64
	sum   string // SHA-256, hexadecimal
}

// measure reads the content once.
func (c *content) measure() error {
	h := sha256.New()
	n, err := io.Copy(h, c.reader())
	c.size, c.sum = n, hex.EncodeToString(h.Sum(nil))
	return err
}

func (c *content) reader() io.Reader {
	var all []io.Reader
	for _, p := range c.parts {
		_, _ = p.Seek(0, io.SeekStart) // a failure shows in the digest
		all = append(all, p)
	}
	return io.MultiReader(all...)
}

// writeBoot writes the image file of the new root to its boot partition.
func (w *worker) writeBoot(packages []dpkg.Package) error {
	active, err := os.Open(w.Active)
	if err != nil {
		return err
	}
	manifest, err := readManifest(active)
	if err = errors.Join(err, active.Close()); err != nil {
		return fmt.Errorf("the running slot's: %w", err)
	}
	boot, err := os.OpenFile(w.Boot, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	size, err := boot.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = boot.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = writeImage(&bounded{boot, size}, manifest, w.to, packages, agentVersion(w.to), w.Time)
	}
	return errors.Join(err, boot.Sync(), boot.Close())
}

// bounded is a writer with an end.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errors.New("the image is larger than the boot partition")
	}
	n, err := b.w.Write(p)
	b.left -= int64(n)
	return n, err
}

// readManifest returns the fields of the manifest with which an image file begins.
func readManifest(r io.Reader) (map[string]any, error) {
	tr := tar.NewReader(r)
	h, err := tr.Next()
	if err != nil {
		return nil, err
	}
	if h.Name != "manifest.json" || h.Size > maxManifest {
		return nil, fmt.Errorf("it begins with %.40q of %d bytes, want manifest.json", h.Name, h.Size)
	}
	text, err := io.ReadAll(tr)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	return fields, nil
}

// writeImage writes the image file of the root at dir.
func writeImage(
	out io.Writer, manifest map[string]any, dir string, packages []dpkg.Package, version string, at time.Time,
) error {
	contents, err := bootContents(dir)
	defer func() {
		for _, c := range contents {
			for _, p := range c.parts {
				if f, ok := p.(*os.File); ok {
					_ = f.Close()
				}
			}
		}
	}()
	if err != nil {
		return err
	}
	agent, err := os.ReadFile(filepath.Join(dir, agentProgram))
	if err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(dir, BootDir, "release"))
	if err != nil {
		return err
	}
	all := sha256.New()
	members := []map[string]any{}
	for _, c := range contents {
		members = append(members, map[string]any{"name": c.name, "size": c.size, "sha256": c.sum})
		fmt.Fprintln(all, c.sum)
	}
	list := []map[string]any{}
	for _, p := range packages {
		list = append(list, map[string]any{"name": p.Name, "version": p.Version, "architecture": p.Arch})
		fmt.Fprintln(all, p.Name, p.Version)
	}
	kernel := strings.TrimSpace(string(release))
	manifest["kernel"], manifest["members"], manifest["packages"] = kernel, members, list
	manifest["agent"] = map[string]any{"version": version, "sha256": sum(agent)}
	manifest["version"] = plain.FindString(kernel) + "-" + hex.EncodeToString(all.Sum(nil)[:5])
	// The time makes the digest of this upgrade its own: it starts on trial, whatever was there before.
	manifest["upgraded"] = at.UTC().Format(time.RFC3339Nano)
	delete(manifest, "root") // of the image: the root is another one now
	delete(manifest, "agent_sha256")
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return err
	}
	if len(text) > maxManifest {
		return fmt.Errorf("manifest.json has %d bytes, at most %d", len(text), maxManifest)
	}
	return writeTar(out, append([]content{{
		name: "manifest.json", mode: 0o644, parts: []io.ReadSeeker{bytes.NewReader(text)}, size: int64(len(text)), sum: sum(text),
	}}, contents...))
}

var plain = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*`)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// bootContents are the kernel and the initramfs of the root at dir, measured.
func bootContents(dir string) ([]content, error) {
	kernel, err := os.Open(filepath.Join(dir, BootDir, "kernel"))
	if err != nil {
		return nil, err
	}
	contents := []content{{name: "kernel", mode: 0o755, parts: []io.ReadSeeker{kernel}}}
	base, err := os.Open(filepath.Join(dir, BootDir, "initramfs"))
	if err != nil {
		return contents, err
	}
	contents = append(contents, content{name: "initramfs", mode: 0o644, parts: []io.ReadSeeker{base}})
	agent, err := os.ReadFile(filepath.Join(dir, agentProgram))
	if err != nil {
		return contents, err
	}
	size, err := base.Seek(0, io.SeekEnd)
	if err != nil {
		return contents, err
	}
	// The kernel unpacks archives that follow each other, at a multiple of four bytes.
	var init bytes.Buffer
	if err := newc.Pad(&init, size); err != nil {
		return contents, err
	}
	if err := newc.Write(&init, []newc.File{newc.Regular("/init", 0o755, agent)}); err != nil {
		return contents, err
	}
	contents[1].parts = append(contents[1].parts, bytes.NewReader(init.Bytes()))
	for i := range contents {
		if err := contents[i].measure(); err != nil {
			return contents, err
		}
	}
	return contents, nil
}

func writeTar(out io.Writer, contents []content) error {
	tw := tar.NewWriter(out)
	for _, c := range contents {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: c.name, Size: c.size, Mode: c.mode, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		h2 := sha256.New()
		if _, err := io.Copy(io.MultiWriter(tw, h2), c.reader()); err != nil {
			return err
		}
		if got := hex.EncodeToString(h2.Sum(nil)); got != c.sum {
			return fmt.Errorf("%s changed while it was written", c.name)
		}
	}
	return tw.Close()
}

// agentVersion is what the agent of a root says of itself; empty where it cannot be run.
func agentVersion(dir string) string {
	cmd := exec.Command(agentProgram, "version")
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: dir}, "/"
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "toe-agent "))
}
