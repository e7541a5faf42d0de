package firmware

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// storeNumber stores image number i, made in minute i.
func storeNumber(t *testing.T, cache string, i int) *Image {
	t.Helper()
	initramfs := bytes.Repeat([]byte{byte(i)}, 10)
	contents := []content{{name: kernelName, data: testKernel}, {name: initramfsName, data: initramfs}}
	img, err := store(cache, describe(testManifest(), contents), contents)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Now().Add(time.Duration(i-100) * time.Minute)
	if err := os.Chtimes(img.Path, made, made); err != nil {
		t.Fatal(err)
	}
	return img
}

func unpackedImages(t *testing.T, cache string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(filesDir(cache), "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestPruneKeepsTheNewest(t *testing.T) {
	cache := t.TempDir()
	var last *Image
	for i := range 5 {
		last = storeNumber(t, cache, i)
		if err := files(t, last).Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := ReadStatus(cache)
	if err != nil {
		t.Fatal(err)
	}
	current := 0
	for _, i := range s.Images {
		if i.State == "current" && i.Version == last.Version {
			current++
		}
	}
	if len(s.Images) != keepImages || current != 1 {
		t.Errorf("%d images, %d of them current; want %d and 1", len(s.Images), current, keepImages)
	}
	if dirs := unpackedImages(t, cache); len(dirs) != keepImages {
		t.Errorf("%d unpacked images, want %d", len(dirs), keepImages)
	}
}

// A card restarts its machine from the files of its first start.
func TestPruneKeepsWhatIsInUse(t *testing.T) {
	cache := t.TempDir()
	img := storeNumber(t, cache, 0)
	used := files(t, img)
	for i := range 2 * keepImages {
		storeNumber(t, cache, i+1)
	}
	for path, want := range map[string][]byte{used.Kernel: testKernel, used.Initrd: bytes.Repeat([]byte{0}, 10)} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v; want it as it was", path, got, err)
		}
	}
	if _, err := img.Files(context.Background()); err != nil {
		t.Errorf("a second use: %v", err)
	}
	// Another manifest with the same contents names another directory for the files.
	if err := os.Remove(img.Path); err != nil {
		t.Fatal(err)
	}
	storeNumber(t, cache, 20)
	if _, err := os.Stat(used.Kernel); err != nil {
		t.Errorf("with its image gone: %v", err)
	}
}

func TestPruneRemovesWhatNoProcessUses(t *testing.T) {
	cache := t.TempDir()
	used := files(t, storeNumber(t, cache, 0))
	if err := used.Close(); err != nil {
		t.Fatal(err)
	}
	current := files(t, storeNumber(t, cache, 1))
	half := filepath.Join(filepath.Dir(current.Kernel), unpacking+"1")
	orphan := filepath.Join(filesDir(cache), "orphan", kernelName)
	for _, path := range []string{half, orphan} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	storeNumber(t, cache, 2)
	if _, err := os.Stat(half); err != nil {
		t.Errorf("a process may be unpacking into %s: %v", half, err)
	}
	if err := current.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range keepImages {
		storeNumber(t, cache, i+3)
	}
	for _, path := range []string{half, orphan, used.Kernel} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}
