// Package firmwaretest makes firmware images for tests.
package firmwaretest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// Debian makes an image of edition debian whose kernel and root have the text name, for the machines
// kinds. Nothing boots it.
func Debian(t testing.TB, cacheDir, name string, kinds ...machine.Kind) *firmware.Image {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := firmware.Manifest{
		Edition: "debian", Version: "7.3-" + name, Kernel: "7.3", Arch: arch.Host().Name,
		Target: firmware.UML, Machines: kinds, Agent: firmware.Agent{SHA256: sum([]byte("agent"))}, Packages: []firmware.Package{},
	}
	return Pack(t, cacheDir, m, []Content{
		{"kernel", []byte("kernel " + name)}, {"initramfs", []byte("initramfs " + name)},
		{"root.ext4.zst", enc.EncodeAll([]byte("root "+name), nil)},
	})
}

// Content is a member of an image and its bytes.
type Content struct {
	Name string
	Data []byte
}

// Pack makes an image with these members. Format and members of the manifest are filled in.
func Pack(t testing.TB, cacheDir string, m firmware.Manifest, members []Content) *firmware.Image {
	t.Helper()
	m.Format, m.Members, m.Root = firmware.Format, nil, nil
	for _, f := range members {
		m.Members = append(m.Members, firmware.Member{Name: f.Name, Size: int64(len(f.Data)), SHA256: sum(f.Data)})
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), m.Version+".tar")
	if err := os.WriteFile(path, Tar(t, append([]Content{{"manifest.json", text}}, members...)), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := firmware.Open(path, cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Tar makes a tar of files, in the form of an image.
func Tar(t testing.TB, files []Content) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Size: int64(len(f.Data)), Mode: 0o644, Format: tar.FormatUSTAR, ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
