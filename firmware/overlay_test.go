package firmware

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/toe-project/toe/internal/newc"
)

// unpackArchives reads concatenated archives as the kernel does. Each must start at a multiple of 4
// bytes.
func unpackArchives(t *testing.T, b []byte) (names []string, data map[string]string) {
	t.Helper()
	const trailer = "TRAILER!!!"
	data = map[string]string{}
	for at := 0; at < len(b); {
		for at < len(b) && b[at] == 0 {
			at++
		}
		if at == len(b) {
			break
		}
		if at%newc.Align != 0 {
			t.Fatalf("an archive begins at byte %d", at)
		}
		rd := bytes.NewReader(b[at:])
		r := cpio.NewReader(rd)
		for {
			hdr, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("archive at byte %d: %v", at, err)
			}
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, hdr.Name)
			data[hdr.Name] = string(body) + hdr.Linkname
		}
		end := bytes.Index(b[at:], []byte(trailer))
		at += end + len(trailer)
	}
	return names, data
}

func TestOverlay(t *testing.T) {
	for pad := range 4 { // whatever length the firmware's initramfs has
		dir := t.TempDir()
		base, dst := filepath.Join(dir, "initramfs"), filepath.Join(dir, "initrd")
		var firmware bytes.Buffer
		if err := newc.Write(&firmware, []newc.File{newc.Regular("/init", 0o755, []byte("x"))}); err != nil {
			t.Fatal(err)
		}
		firmware.Write(make([]byte, pad))
		if err := os.WriteFile(base, firmware.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		err := Overlay(dst, base, []newc.File{
			newc.Dir("/etc/toe/keys", 0o700),
			newc.Regular("/etc/toe/keys/server.key", 0o600, []byte("secret")),
			newc.Regular("/etc/toe/card.json", 0o600, []byte("{}")),
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		names, data := unpackArchives(t, got)
		if want := "init etc etc/toe etc/toe/keys etc/toe/keys/server.key etc/toe/card.json"; strings.Join(names, " ") != want {
			t.Errorf("pad %d: entries %v, want %s", pad, names, want)
		}
		if data["etc/toe/keys/server.key"] != "secret" {
			t.Error("the key is not what was written")
		}
		if info, _ := os.Stat(dst); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, want 0600", info.Mode())
		}
	}
}

func TestOverlayFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	base, dst := filepath.Join(dir, "initramfs"), filepath.Join(dir, "initrd")
	for _, name := range []string{base, dst} {
		if err := os.WriteFile(name, []byte("old "), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Overlay(dst, base, []newc.File{newc.Regular("no-path", 0o600, nil)}); err == nil {
		t.Fatal("a relative name was taken")
	}
	if err := Overlay(dst, base+"-missing", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing firmware: %v", err)
	}
	if b, _ := os.ReadFile(dst); string(b) != "old " {
		t.Errorf("the file has become %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}
