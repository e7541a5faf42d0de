package upgrade_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/agent/upgrade"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/dpkg"
)

// The host reads the image file that a card has made, as one of its own.
func TestBootImage(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		upgrade.BootDir + "/kernel": "a kernel", upgrade.BootDir + "/initramfs": "cpio!", upgrade.BootDir + "/release": "7.4.1-toe\n",
		"/usr/sbin/toe-agent": "the agent",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write := func(at time.Time) []byte {
		t.Helper()
		manifest := map[string]any{
			"format": 2, "edition": "debian", "architecture": "amd64", "target": "uml", "machines": []string{"uml"},
			"version": "7.3.4-aaaa", "kernel": "7.3.4", "root": map[string]any{"name": "root.ext4.zst", "size": 1, "sha256": strings.Repeat("a", 64)},
			"agent": map[string]any{"sha256": strings.Repeat("b", 64)}, "something": "that a newer toe knows",
		}
		var out bytes.Buffer
		packages := []dpkg.Package{{Name: "bash", Version: "5.3", Arch: "amd64"}}
		if err := upgrade.WriteImage(&out, manifest, root, packages, "v9", at); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	open := func(b []byte) *firmware.Image {
		t.Helper()
		partition := append(bytes.Clone(b), make([]byte, 1<<20)...)
		img, err := firmware.OpenSlot(io.NewSectionReader(bytes.NewReader(partition), 0, int64(len(partition))), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := img.Verify(context.Background()); err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := open(write(time.Unix(1, 0)))
	if img.Kernel != "7.4.1-toe" || !strings.HasPrefix(img.Version, "7.4.1-") || img.Agent.Version != "v9" || img.Root != nil ||
		img.Edition != "debian" || len(img.Packages) != 1 || img.Packages[0].Version != "5.3" {
		t.Errorf("%+v", img.Manifest)
	}
	files, err := img.Files(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	initrd, err := os.ReadFile(files.Initrd)
	if err != nil || !strings.HasPrefix(string(initrd), "cpio!\x00\x00\x00070701") || !bytes.Contains(initrd, []byte("init\x00")) ||
		!bytes.Contains(initrd, []byte("the agent")) {
		t.Errorf("initramfs %q, %v", initrd, err)
	}
	// The same packages upgraded another time are another content, and start on trial.
	if again := open(write(time.Unix(2, 0))); again.Digest() == img.Digest() {
		t.Error("two upgrades have the same digest")
	}
}
