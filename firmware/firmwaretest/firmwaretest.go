// Package firmwaretest makes small firmware images for tests. Nothing boots them.
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
// kinds.
func Debian(t testing.TB, cacheDir, name string, kinds ...machine.Kind) *firmware.Image {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	members := []struct {
		name string
		data []byte
	}{
		{"kernel", []byte("kernel " + name)}, {"initramfs", []byte("initramfs " + name)},
		{"root.ext4.zst", enc.EncodeAll([]byte("root "+name), nil)},
	}
	m := firmware.Manifest{
		Format: firmware.Format, Edition: "debian", Version: "7.3-" + name, Kernel: "7.3", Arch: arch.Host().Name,
		Target: firmware.UML, Machines: kinds, Agent: firmware.Agent{SHA256: sum([]byte("agent"))}, Packages: []firmware.Package{},
	}
	for _, f := range members {
		m.Members = append(m.Members, firmware.Member{Name: f.name, Size: int64(len(f.data)), SHA256: sum(f.data)})
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, data []byte) {
		h := &tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644, Format: tar.FormatUSTAR, ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add("manifest.json", text)
	for _, f := range members {
		add(f.name, f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := firmware.Open(path, cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
