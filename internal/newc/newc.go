// Package newc writes cpio archives in the newc format, which is what the kernel unpacks as an
// initramfs: Documentation/driver-api/early-userspace/buffer-format.rst.
package newc

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// File is one entry of an archive. Its owner is root and its time 1970.
type File struct {
	Name string      // absolute path after unpacking, clean
	Mode fs.FileMode // type and permissions
	Data []byte      // contents, or the target of a symbolic link
	Dev  [2]uint32   // major and minor number of a device
}

// Align is the alignment of headers, contents and archives, in bytes.
const Align = 4

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	maxData = 1 << 30 // bytes of one file; the format has 32 bits

	sIFDIR, sIFREG, sIFLNK, sIFCHR = 0o040000, 0o100000, 0o120000, 0o020000
)

// Write writes files as one archive with its trailer, padded so that another archive may follow.
// w must stand at a multiple of Align. A file with a name that is not absolute and clean, more
// than 1 GiB, or a type that the format or the kernel does not know is an error.
func Write(w io.Writer, files []File) error {
	for i, f := range files {
		if err := f.check(); err != nil {
			return err
		}
		mode, _ := f.unixMode()
		nlink := 1
		if f.Mode.IsDir() {
			nlink = 2
		}
		err := writeEntry(w, f.archiveName(), f.Data, uint32(i+1), mode, uint32(nlink), f.Dev)
		if err != nil {
			return fmt.Errorf("cpio entry %s: %w", f.Name, err)
		}
	}
	return writeEntry(w, trailer, nil, 0, 0, 1, [2]uint32{})
}

func (f File) check() error {
	if !path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || strings.ContainsRune(f.Name, 0) {
		return fmt.Errorf("cpio entry %q: want a clean absolute path", f.Name)
	}
	if int64(len(f.Data)) > maxData {
		return fmt.Errorf("cpio entry %s: %d bytes, want at most %d", f.Name, len(f.Data), maxData)
	}
	_, err := f.unixMode()
	return err
}

// archiveName is relative: the kernel unpacks into its root directory.
func (f File) archiveName() string {
	if f.Name == "/" {
		return "."
	}
	return strings.TrimPrefix(f.Name, "/")
}

func (f File) unixMode() (uint32, error) {
	mode := uint32(f.Mode.Perm())
	if f.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	switch f.Mode.Type() {
	case 0:
		return mode | sIFREG, nil
	case fs.ModeDir:
		return mode | sIFDIR, nil
	case fs.ModeSymlink:
		return mode | sIFLNK, nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return mode | sIFCHR, nil
	}
	return 0, fmt.Errorf("cpio entry %s: type %v, want a file, directory, symbolic link or character device", f.Name, f.Mode.Type())
}

// writeEntry writes
//
//	magic(6) ino mode uid gid nlink mtime filesize devmajor devminor
//	rdevmajor rdevminor namesize check      (each 8 hexadecimal digits)
//	name NUL, padding to 4 bytes, contents, padding to 4 bytes
func writeEntry(w io.Writer, name string, data []byte, ino, mode, nlink uint32, dev [2]uint32) error {
	head := fmt.Sprintf("%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		magic, ino, mode, 0, 0, nlink, 0, len(data), 0, 0, dev[0], dev[1], len(name)+1, 0, name)
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	if err := Pad(w, int64(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	return Pad(w, int64(len(data)))
}

// Pad writes the zeros that bring a writer from byte n to a multiple of Align.
func Pad(w io.Writer, n int64) error {
	_, err := w.Write(make([]byte, (Align-n%Align)%Align))
	return err
}

// Dir returns the entry of a directory.
func Dir(name string, perm fs.FileMode) File {
	return File{Name: name, Mode: fs.ModeDir | perm}
}

// Regular returns the entry of a regular file.
func Regular(name string, perm fs.FileMode, data []byte) File {
	return File{Name: name, Mode: perm, Data: data}
}

// Link returns the entry of a symbolic link.
func Link(name, target string) File {
	return File{Name: name, Mode: fs.ModeSymlink | 0o777, Data: []byte(target)}
}

// CharDevice returns the entry of a character device.
func CharDevice(name string, perm fs.FileMode, major, minor uint32) File {
	return File{Name: name, Mode: fs.ModeDevice | fs.ModeCharDevice | perm, Dev: [2]uint32{major, minor}}
}
