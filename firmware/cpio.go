package firmware

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// File is one entry of a cpio archive. Owner is root, the time 1970.
type File struct {
	Name string      // absolute path on the card, clean
	Mode fs.FileMode // type and permissions
	Data []byte      // contents, or where a symbolic link points
	Dev  [2]uint32   // major and minor number of a device
}

// Numbers of the newc format, see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
const (
	cpioMagic   = "070701"
	cpioTrailer = "TRAILER!!!"
	cpioAlign   = 4 // bytes, of headers and contents

	sIFDIR, sIFREG, sIFLNK, sIFCHR = 0o040000, 0o100000, 0o120000, 0o020000
)

// AppendCPIO writes files as one newc archive with its trailer, padded so
// that another archive may follow. w must stand at a multiple of 4 bytes.
func AppendCPIO(w io.Writer, files []File) error {
	for i, f := range files {
		if err := f.check(); err != nil {
			return err
		}
		mode, _ := f.unixMode()
		nlink := 1
		if f.Mode.IsDir() {
			nlink = 2
		}
		err := writeEntry(w, f.archiveName(), f.Data,
			uint32(i+1), mode, uint32(nlink), f.Dev)
		if err != nil {
			return fmt.Errorf("cpio entry %s: %w", f.Name, err)
		}
	}
	return writeEntry(w, cpioTrailer, nil, 0, 0, 1, [2]uint32{})
}

func (f File) check() error {
	if !path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || strings.ContainsRune(f.Name, 0) {
		return fmt.Errorf("cpio entry %q: the name must be a clean absolute path", f.Name)
	}
	if int64(len(f.Data)) > maxMember {
		return fmt.Errorf("cpio entry %s: %d bytes, at most %d", f.Name, len(f.Data), maxMember)
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
	return 0, fmt.Errorf("cpio entry %s: %v is neither file, directory, symbolic link nor character device", f.Name, f.Mode.Type())
}

// writeEntry writes
//
//	magic(6) ino mode uid gid nlink mtime filesize devmajor devminor
//	rdevmajor rdevminor namesize check      (each 8 hexadecimal digits)
//	name NUL, padding to 4 bytes, contents, padding to 4 bytes
func writeEntry(w io.Writer, name string, data []byte, ino, mode, nlink uint32, dev [2]uint32) error {
	head := fmt.Sprintf("%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		cpioMagic, ino, mode, 0, 0, nlink, 0, len(data), 0, 0, dev[0], dev[1], len(name)+1, 0, name)
	if _, err := io.WriteString(w, head+padding(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err := io.WriteString(w, padding(len(data)))
	return err
}

func padding(n int) string {
	return strings.Repeat("\x00", (cpioAlign-n%cpioAlign)%cpioAlign)
}

// Dir, Regular, Link and CharDevice make the entries of an archive.
func Dir(name string, perm fs.FileMode) File {
	return File{Name: name, Mode: fs.ModeDir | perm}
}

func Regular(name string, perm fs.FileMode, data []byte) File {
	return File{Name: name, Mode: perm, Data: data}
}

func Link(name, target string) File {
	return File{Name: name, Mode: fs.ModeSymlink | 0o777, Data: []byte(target)}
}

func CharDevice(name string, perm fs.FileMode, major, minor uint32) File {
	return File{Name: name, Mode: fs.ModeDevice | fs.ModeCharDevice | perm, Dev: [2]uint32{major, minor}}
}
