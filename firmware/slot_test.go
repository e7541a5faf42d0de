package firmware

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// slotOf returns a partition of size bytes that begins with image and goes on with rubbish.
func slotOf(image []byte, size int) *io.SectionReader {
	b := bytes.Repeat([]byte{0xa5}, size)
	copy(b, image)
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(size))
}

// debianImage is an image with a root, in a file.
func debianImage(t testing.TB, root []byte) *Image {
	t.Helper()
	contents := append(testContents[:2:2], content{name: rootName, data: root})
	var b bytes.Buffer
	if err := pack(&b, describe(testManifest(), contents), contents); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := Open(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func bootImage(t testing.TB, img *Image) (text []byte, digest string) {
	t.Helper()
	var b bytes.Buffer
	digest, size, err := img.WriteBoot(&b)
	if err != nil || size != int64(b.Len()) {
		t.Fatalf("%d bytes written, said %d: %v", b.Len(), size, err)
	}
	return b.Bytes(), digest
}

func TestSlotRoundTrip(t *testing.T) {
	img := debianImage(t, []byte("the root"))
	boot, digest := bootImage(t, img)
	slot, err := OpenSlot(slotOf(boot, 64<<10), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if slot.Digest() != digest || slot.Version != img.Version || len(slot.Members) != 2 {
		t.Errorf("digest %s, version %s, members %v", slot.Digest(), slot.Version, slot.Members)
	}
	if slot.Root == nil || slot.Root.SHA256 != img.Members[2].SHA256 {
		t.Errorf("root %v", slot.Root)
	}
	if err := slot.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	files, err := slot.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if kernel, err := os.ReadFile(files.Kernel); err != nil || !bytes.Equal(kernel, testKernel) {
		t.Errorf("kernel %q, %v", kernel, err)
	}
	// Another root is another slot.
	if _, other := bootImage(t, debianImage(t, []byte("another root"))); other == digest {
		t.Error("slots with different roots have one digest")
	}
}

// A boot slot with a bit flipped anywhere, cut off, or empty is refused, and nothing of it is used.
func TestDamagedSlot(t *testing.T) {
	boot, _ := bootImage(t, debianImage(t, []byte("the root")))
	if _, err := OpenSlot(slotOf(nil, 1<<20), t.TempDir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("rubbish: %v, want ErrInvalid", err)
	}
	if _, err := OpenSlot(slotOf(boot, len(boot)-1024), t.TempDir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("cut off: %v, want ErrInvalid", err)
	}
	accepted := 0
	for at := 0; at < len(boot); at += 5 {
		bad := bytes.Clone(boot)
		bad[at] ^= 4
		slot, err := OpenSlot(slotOf(bad, 64<<10), t.TempDir())
		if err == nil {
			err = slot.Verify(t.Context())
		}
		if err == nil {
			accepted++ // a byte of a header that has no meaning, or white space of the manifest
			if !bytes.Contains(bad, testKernel) || !bytes.Contains(bad, testInitramfs) {
				t.Errorf("byte %d: a member with a bit flipped is accepted", at)
			}
		} else if !errors.Is(err, ErrInvalid) {
			t.Errorf("byte %d: %v, want ErrInvalid", at, err)
		}
	}
	if accepted > len(boot)/10 {
		t.Errorf("%d of %d flipped bits were accepted", accepted, len(boot)/5)
	}
}

// zeroed is a disk that counts what is written.
type zeroed struct {
	data    []byte
	written int
}

func (z *zeroed) WriteAt(b []byte, off int64) (int, error) {
	z.written += len(b)
	return copy(z.data[off:], b), nil
}

func TestWriteRoot(t *testing.T) {
	root := make([]byte, 3*rootBlock+100)
	copy(root, "superblock")
	copy(root[3*rootBlock:], "the end")
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(root, nil)
	path := filepath.Join(t.TempDir(), "root")
	write := func(b []byte, limit int64) (*zeroed, int64, error) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		z := &zeroed{data: make([]byte, len(root))}
		n, err := WriteRoot(t.Context(), path, z, limit, nil)
		return z, n, err
	}
	z, n, err := write(packed, int64(len(root)))
	if err != nil || n != int64(len(root)) || !bytes.Equal(z.data, root) || z.written != rootBlock+100 {
		t.Errorf("%d bytes, %d written, %v", n, z.written, err)
	}
	if _, _, err := write(packed, int64(len(root)-1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too large for its partition: %v, want ErrInvalid", err)
	}
	for _, cut := range []int{1, 10, len(packed) / 2, len(packed) - 1} {
		if _, _, err := write(packed[:cut], int64(len(root))); err == nil {
			t.Errorf("a root that breaks off after %d of %d bytes is accepted", cut, len(packed))
		}
	}
}

func FuzzSlot(f *testing.F) {
	boot, _ := bootImage(f, debianImage(f, []byte("the root")))
	f.Add(boot)
	f.Add(boot[:1024])
	f.Add(bytes.Repeat([]byte{0}, 2048))
	f.Fuzz(func(t *testing.T, b []byte) {
		slot, err := OpenSlot(slotOf(b, 64<<10), "")
		if err == nil {
			err = slot.Verify(t.Context())
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: want ErrInvalid", err)
		}
	})
}
