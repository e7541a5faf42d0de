package firmware

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/toe-project/toe/machine"
)

// Image is a firmware image on disk.
type Image struct {
	Manifest
	Path  string // of the tar
	Size  int64  // bytes
	cache string
	id    string            // SHA-256 of the manifest, which stands for all of it
	slot  *io.SectionReader // of a flash, where it comes from one
}

// Digest returns the SHA-256 of the manifest in hex. The manifest holds that of each member.
func (img *Image) Digest() string { return img.id }

func (m *Manifest) has(member string) bool {
	return slices.ContainsFunc(m.Members, func(f Member) bool { return f.Name == member })
}

// SBOM returns the bill of materials of an image, SPDX 2.3 in JSON. An edition that is not made of
// a system's packages has none.
func (img *Image) SBOM() ([]byte, error) {
	if !img.has(sbomName) {
		return nil, fmt.Errorf("firmware %s: edition %s has no bill of materials; edition %s has", img.Path, img.Edition, Debian)
	}
	var text []byte
	_, err := img.reopen(func(f Member, r io.Reader) (err error) {
		if f.Name == sbomName {
			text, err = io.ReadAll(r)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("firmware %s: %w", img.Path, err)
	}
	return text, nil
}

// Open reads and verifies the whole image at path, which is untrusted. cacheDir is where Files
// unpacks it. Errors: ErrInvalid.
func Open(path, cacheDir string) (*Image, error) {
	img, err := openImage(path, cacheDir, func(Member, io.Reader) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("firmware %s: %w", path, err)
	}
	return img, nil
}

// Find returns the cached image for a kind of machine. It reads only the manifest; Files verifies
// the members when it unpacks them. Errors: ErrNotBuilt.
func Find(cacheDir string, edition Edition, kind machine.Kind, arch string) (*Image, error) {
	target, err := TargetOf(kind)
	if err != nil {
		return nil, err
	}
	return find(cacheDir, edition, target, arch)
}

func find(cacheDir string, edition Edition, target Target, arch string) (*Image, error) {
	link := currentLink(cacheDir, edition, target, arch)
	name, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: edition %s for %s on %s; toe firmware build --edition %s --machine %s --arch %s makes it",
			ErrNotBuilt, edition, target, arch, edition, target, arch)
	}
	if err != nil {
		return nil, fmt.Errorf("firmware cache: %w", err)
	}
	path := filepath.Join(filepath.Dir(link), filepath.Base(name))
	img, err := openImage(path, cacheDir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is gone from the cache", ErrNotBuilt, path)
	}
	if err != nil {
		return nil, fmt.Errorf("firmware %s: %w", path, err)
	}
	return img, nil
}

func imageDir(cacheDir string) string { return filepath.Join(cacheDir, "firmware") }

func currentLink(cacheDir string, edition Edition, target Target, arch string) string {
	return filepath.Join(imageDir(cacheDir), fmt.Sprintf("current-%s-%s-%s", edition, arch, target))
}

// openImage reads an image. With each == nil it stops after the manifest. Otherwise each gets every
// member, and all contents are verified. What each has stored is valid only if openImage returns no
// error.
func openImage(path, cacheDir string, each func(Member, io.Reader) error) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrInvalid)
	}
	m, id, err := readImage(f, info.Size(), each)
	if err != nil {
		return nil, err
	}
	return &Image{Manifest: *m, Path: path, Size: info.Size(), cache: cacheDir, id: id}, nil
}

// readImage reads an untrusted image of size bytes.
func readImage(r io.Reader, size int64, each func(Member, io.Reader) error) (*Manifest, string, error) {
	tr := tar.NewReader(r)
	hdr, err := nextMember(tr, manifestName)
	if err != nil {
		return nil, "", err
	}
	if hdr.Size > maxManifest {
		return nil, "", fmt.Errorf("%w: %s has %d bytes, at most %d", ErrInvalid, manifestName, hdr.Size, maxManifest)
	}
	text, err := io.ReadAll(tr)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s: %v", ErrInvalid, manifestName, err)
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, "", err
	}
	if want := imageSize(int64(len(text)), m.Members); size != want {
		return nil, "", fmt.Errorf("%w: %d bytes long, the manifest says %d", ErrInvalid, size, want)
	}
	sum := sha256.Sum256(text)
	id := hex.EncodeToString(sum[:])
	if each == nil {
		return m, id, nil
	}
	for _, f := range m.Members {
		if err := readMember(tr, f, each); err != nil {
			return nil, "", err
		}
	}
	if _, err := tr.Next(); err != io.EOF {
		return nil, "", fmt.Errorf("%w: something follows the last member", ErrInvalid)
	}
	return m, id, nil
}

func nextMember(tr *tar.Reader, name string) (*tar.Header, error) {
	hdr, err := tr.Next()
	switch {
	case err == io.EOF:
		return nil, fmt.Errorf("%w: it ends before member %s", ErrInvalid, name)
	case errors.Is(err, tar.ErrHeader) && name == manifestName:
		return nil, fmt.Errorf("%w: no tar that begins with member %s", ErrInvalid, name)
	case err != nil:
		return nil, fmt.Errorf("%w: member %s: %v", ErrInvalid, name, err)
	}
	if hdr.Name != name || hdr.Typeflag != tar.TypeReg || hdr.Format&tar.FormatUSTAR == 0 || len(hdr.PAXRecords) > 0 {
		return nil, fmt.Errorf("%w: member %.64q of type %q, want the regular file %s", ErrInvalid, hdr.Name, hdr.Typeflag, name)
	}
	return hdr, nil
}

func readMember(tr *tar.Reader, f Member, each func(Member, io.Reader) error) error {
	hdr, err := nextMember(tr, f.Name)
	if err != nil {
		return err
	}
	if hdr.Size != f.Size {
		return fmt.Errorf("%w: member %s has %d bytes, the manifest says %d", ErrInvalid, f.Name, hdr.Size, f.Size)
	}
	h := sha256.New()
	body := io.TeeReader(tr, h)
	if err := each(f, body); err != nil {
		return fmt.Errorf("member %s: %w", f.Name, err)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return fmt.Errorf("%w: member %s: %v", ErrInvalid, f.Name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%w: member %s has SHA-256 %s, the manifest says %s", ErrInvalid, f.Name, got, f.SHA256)
	}
	return nil
}
