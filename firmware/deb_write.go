package firmware

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5" // what dpkg's md5sums has; it protects against accidents only
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/newc"
)

// debPackage is a Debian package of our own, deb(5).
type debPackage struct {
	name, version, arch string
	fields              string // further fields of control, each a line
	files               []newc.File
}

// deb returns the package's bytes, which are the same for the same package. There are no maintainer
// scripts: the package can be installed into a root that cannot run programs. Files below /etc are
// its conffiles.
func (p debPackage) deb() ([]byte, error) {
	data, err := tarGz(withParents(p.files), "./")
	if err != nil {
		return nil, err
	}
	control, err := tarGz(p.control(), "./")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []content{
		{name: "debian-binary", data: []byte("2.0\n")},
		{name: "control.tar.gz", data: control},
		{name: "data.tar.gz", data: data},
	} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, int64(debianEpoch), 0, 0, 0o100644, len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

func (p debPackage) control() []newc.File {
	var sums, conffiles bytes.Buffer
	size := 0
	for _, f := range p.files {
		if !f.Mode.IsRegular() {
			continue
		}
		size += len(f.Data)
		fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.Data), strings.TrimPrefix(f.Name, "/"))
		if strings.HasPrefix(f.Name, "/etc/") {
			fmt.Fprintln(&conffiles, f.Name)
		}
	}
	text := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: toe <toe@localhost>\n"+
		"Installed-Size: %d\nSection: net\nPriority: optional\n%s", p.name, p.version, p.arch, (size+1023)/1024, p.fields)
	files := []newc.File{
		newc.Regular("/control", 0o644, []byte(text)),
		newc.Regular("/md5sums", 0o644, sums.Bytes()),
	}
	if conffiles.Len() > 0 {
		files = append(files, newc.Regular("/conffiles", 0o644, conffiles.Bytes()))
	}
	return files
}

// debVersion makes a Debian version of a program's, which may begin with a letter or be a commit.
func debVersion(version string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".+~", r) {
			return r
		}
		return '+'
	}, strings.TrimPrefix(version, "v"))
	if strings.Contains(clean, ".") && clean[0] >= '0' && clean[0] <= '9' {
		return clean
	}
	return "0~" + orElse(clean, "devel")
}

// tarGz returns a compressed tar of files. Their owner is root and their time debianEpoch.
func tarGz(files []newc.File, prefix string) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := writeTar(z, files, prefix); err != nil {
		return nil, err
	}
	err := z.Close()
	return out.Bytes(), err
}

func writeTar(w interface{ Write([]byte) (int, error) }, files []newc.File, prefix string) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		name := prefix + strings.TrimPrefix(path.Clean(f.Name), "/")
		h := &tar.Header{
			Name: name, Mode: int64(f.Mode.Perm()), ModTime: time.Unix(debianEpoch, 0), Format: tar.FormatGNU,
			Typeflag: tar.TypeReg, Size: int64(len(f.Data)),
		}
		switch {
		case f.Mode.IsDir():
			h.Typeflag, h.Name, h.Size = tar.TypeDir, strings.TrimSuffix(name, "/")+"/", 0
		case !f.Mode.IsRegular():
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, string(f.Data), 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		if h.Size > 0 {
			if _, err := tw.Write(f.Data); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// sorted returns files in the order of their names.
func sorted(files []newc.File) []newc.File {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b newc.File) int { return strings.Compare(a.Name, b.Name) })
	return files
}
