package firmware

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

const tarBlock = 512 // bytes

// imageSize returns the exact size of an image in bytes.
func imageSize(manifest int64, members []Member) int64 {
	blocks := func(n int64) int64 { return 1 + (n+tarBlock-1)/tarBlock }
	n := blocks(manifest) + 2 // two empty blocks end a tar
	for _, f := range members {
		n += blocks(f.Size)
	}
	return n * tarBlock
}

// content is a member and its bytes.
type content struct {
	name     string
	data     []byte
	critical bool // a reader that does not know it must not use the image
}

// describe fills in the fields of a manifest that follow from the contents.
func describe(m Manifest, contents []content) Manifest {
	m.Format = Format
	m.Machines = m.Target.kinds()
	m.Members = nil
	for _, c := range contents {
		f := member(c.name, c.data)
		f.Critical = c.critical
		m.Members = append(m.Members, f)
	}
	m.Packages = slices.Clone(m.Packages)
	slices.SortFunc(m.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	all := sha256.New()
	for _, f := range m.Members {
		fmt.Fprintln(all, f.SHA256)
	}
	m.Version = plainVersion(m.Kernel) + "-" + hex.EncodeToString(all.Sum(nil)[:5])
	return m
}

func member(name string, data []byte) Member {
	sum := sha256.Sum256(data)
	return Member{Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

var leadingVersion = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*`)

// plainVersion returns the numeric part of a kernel's release: 6.12.9 of 6.12.9+deb13-cloud-amd64.
func plainVersion(release string) string {
	if v := leadingVersion.FindString(release); v != "" {
		return v
	}
	return release
}

// imageName returns the file name of an image.
func imageName(m Manifest) string {
	return fmt.Sprintf("toe-%s-%s-%s-%s.tar", m.Edition, m.Arch, m.Target, m.Version)
}

// pack writes an image; m must be complete.
func pack(w io.Writer, m Manifest, contents []content) error {
	text, err := m.encode()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, f := range slices.Concat([]content{{name: manifestName, data: text}}, contents) {
		if err := writeHeader(tw, f.name, int64(len(f.data))); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeHeader(tw *tar.Writer, name string, size int64) error {
	return tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size,
		Mode: int64(fileMode(name)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
}
