package firmware

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A boot slot of a flash holds an image file of its own: the kernel and the initramfs of an image,
// and a manifest with the digest of the root file system that belongs to them. So the manifest's
// digest stands for all of the slot.

// WriteBoot writes the image file of a boot slot, made of img. It returns the digest of its manifest
// and its size in bytes. img is verified on the way; after an error what was written is void.
func (img *Image) WriteBoot(w io.Writer) (digest string, size int64, err error) {
	m := img.Manifest
	m.Members = nil
	for _, f := range img.Members {
		switch {
		case slices.Contains(required, f.Name):
			m.Members = append(m.Members, f)
		case f.Name == rootName:
			m.Root = &f
		}
	}
	text, err := m.encode()
	if err != nil {
		return "", 0, err
	}
	tw := tar.NewWriter(w)
	if err := writeHeader(tw, manifestName, int64(len(text))); err != nil {
		return "", 0, err
	}
	if _, err := tw.Write(text); err != nil {
		return "", 0, err
	}
	again, err := img.reopen(func(f Member, r io.Reader) error {
		if !slices.Contains(m.Members, f) {
			return nil
		}
		if err := writeHeader(tw, f.Name, f.Size); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	})
	if err != nil {
		return "", 0, fmt.Errorf("firmware %s: %w", img.Path, err)
	}
	if again.id != img.id {
		return "", 0, fmt.Errorf("firmware %s: %w: the file was replaced while it was read", img.Path, ErrInvalid)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), imageSize(int64(len(text)), m.Members), tw.Close()
}

// OpenSlot reads the manifest of the image file at the beginning of a boot slot, which is untrusted.
// Verify and Files check the rest of it. Errors: ErrInvalid.
func OpenSlot(slot *io.SectionReader, cacheDir string) (*Image, error) {
	return readSlot(slot, cacheDir, nil)
}

// Verify reads all of the image and checks it. Errors: ErrInvalid.
func (img *Image) Verify(ctx context.Context) error {
	again, err := img.reopen(func(Member, io.Reader) error { return ctx.Err() })
	if err == nil && again.id != img.id {
		err = fmt.Errorf("%w: it was replaced while it was read", ErrInvalid)
	}
	return err
}

func readSlot(slot *io.SectionReader, cacheDir string, each func(Member, io.Reader) error) (*Image, error) {
	size, err := slotImageSize(slot)
	if err != nil {
		return nil, err
	}
	m, id, err := readImage(io.NewSectionReader(slot, 0, size), size, each)
	if err != nil {
		return nil, err
	}
	return &Image{Manifest: *m, Size: size, cache: cacheDir, id: id, slot: slot}, nil
}

// slotImageSize returns the size of the image that a slot begins with, in bytes.
func slotImageSize(slot *io.SectionReader) (int64, error) {
	tr := tar.NewReader(io.NewSectionReader(slot, 0, slot.Size()))
	hdr, err := nextMember(tr, manifestName)
	if err != nil {
		return 0, err
	}
	if hdr.Size > maxManifest {
		return 0, fmt.Errorf("%w: %s has %d bytes, at most %d", ErrInvalid, manifestName, hdr.Size, maxManifest)
	}
	text, err := io.ReadAll(tr)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %v", ErrInvalid, manifestName, err)
	}
	m, err := parseManifest(text)
	if err != nil {
		return 0, err
	}
	size := imageSize(int64(len(text)), m.Members)
	if size > slot.Size() {
		return 0, fmt.Errorf("%w: %d bytes long by its manifest, the slot has %d", ErrInvalid, size, slot.Size())
	}
	return size, nil
}

// reopen reads an image once more, from where it came.
func (img *Image) reopen(each func(Member, io.Reader) error) (*Image, error) {
	if img.slot != nil {
		return readSlot(img.slot, img.cache, each)
	}
	return openImage(img.Path, img.cache, each)
}

// WriteRoot decompresses the root file system at path, which Files unpacked, to dst. It writes at
// most limit bytes, and leaves out blocks of zeros: dst has only zeros. Each block is reported to
// count, which may be nil. It returns the size of the file system in bytes.
func WriteRoot(ctx context.Context, path string, dst io.WriterAt, limit int64, count func(n int64)) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxMemory(128<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	defer z.Close()
	block, zero := make([]byte, rootBlock), make([]byte, rootBlock)
	for at := int64(0); ; at += rootBlock {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		n, err := fill(z, block)
		if at+int64(n) > limit {
			return at, fmt.Errorf("%w: the root file system has more than the %d bytes of its partition", ErrInvalid, limit)
		}
		if n > 0 && !slices.Equal(block[:n], zero[:n]) {
			if _, err := dst.WriteAt(block[:n], at); err != nil {
				return at, err
			}
		}
		if count != nil {
			count(int64(n))
		}
		switch {
		case err == io.EOF:
			return at + int64(n), nil
		case err != nil:
			return at, fmt.Errorf("%s: %w", path, err)
		}
	}
}

// rootBlock is what WriteRoot writes or leaves out, in bytes.
const rootBlock = 256 << 10

// fill reads until block is full. The error is io.EOF only at the end of r, and not where r breaks
// off.
func fill(r io.Reader, block []byte) (n int, err error) {
	for n < len(block) && err == nil {
		var m int
		m, err = r.Read(block[n:])
		n += m
	}
	return n, err
}
