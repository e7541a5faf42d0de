package sandbox

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stage is where the new root is put together. Any directory that always exists works: sources are
// opened before it is covered.
const stage = "/tmp"

// ownUser reports whether the program gets a user id of its own: only with a real root as the
// caller. In a user namespace root is the caller itself. It reads /proc, so call it before /proc is
// gone.
func ownUser() bool {
	return mapped("/proc/self/uid_map", Nobody) && mapped("/proc/self/gid_map", Nobody)
}

// firstOwn and lastOwn are user ids that no other program allocates: above those of
// container managers, and positive as 32-bit numbers.
const firstOwn, lastOwn = 0x7000_0000, 0x7fff_fffe

// OwnUser is a user id for one card's cells, the same at each start, so that a
// card that takes its machine over is still not the user of another. It is 0
// where the caller is not root, or where such ids do not exist (in most
// containers): then the cell's user is the caller, or Nobody.
func OwnUser(card string) int {
	sum := sha256.Sum256([]byte(card))
	id := firstOwn + int(binary.BigEndian.Uint32(sum[:])%(lastOwn-firstOwn+1))
	if os.Geteuid() != 0 || !mapped("/proc/self/uid_map", id) || !mapped("/proc/self/gid_map", id) {
		return 0
	}
	return id
}

// buildRoot replaces the file system with an empty one that holds the cell's
// binds, scratch directories and files. /proc and /sys are not among them.
func (c Cell) buildRoot(own bool) error {
	sources, err := c.openBinds()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount("toe-cell", stage, "tmpfs", unix.MS_NOSUID, "mode=0755,size=4m,nr_inodes=4096"); err != nil {
		return fmt.Errorf("mounting the cell's root: %w", err)
	}
	for i, b := range c.Binds {
		if sources[i] < 0 {
			continue
		}
		put := attach
		if b.Device && own {
			put = c.node
		}
		if err := put(sources[i], stage+b.Target); err != nil {
			return fmt.Errorf("%s as %s: %w", b.Source, b.Target, err)
		}
	}
	for _, s := range c.Scratch {
		if err := s.mount(own, c.UID, c.GID); err != nil {
			return err
		}
	}
	if err := c.writeFiles(); err != nil {
		return err
	}
	return pivot()
}

// openBinds takes a detached copy of every source's mount with its flags set.
func (c Cell) openBinds() ([]int, error) {
	fds := make([]int, len(c.Binds))
	for i, b := range c.Binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source,
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if b.Optional && errors.Is(err, unix.ENOENT) {
			fds[i] = -1
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open_tree %s: %w", b.Source, err)
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
		if !b.Write {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if !b.Device {
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return nil, fmt.Errorf("mount_setattr %s: %w (needs Linux 5.12)", b.Source, err)
		}
		fds[i] = fd
	}
	return fds, nil
}

// attach mounts fd at path, making a directory or an empty file there.
func attach(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	} else if err := writeFile(path, nil); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return unix.Close(fd)
}

// node makes a device file for the cell, so that the user of the cell needs no permission on the
// host's.
func (c Cell) node(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return errors.New("no character device")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	if err := os.Chown(path, orNobody(c.UID), orNobody(c.GID)); err != nil {
		return err
	}
	return unix.Close(fd)
}

// mount makes the scratch directory. It may be executed from: User-Mode Linux
// maps its memory file executable, and refuses a noexec one.
func (s Scratch) mount(own bool, uid, gid int) error {
	path := stage + s.Target
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	opts := fmt.Sprintf("mode=0700,size=%d", s.Bytes)
	if own {
		opts += fmt.Sprintf(",uid=%d,gid=%d", orNobody(uid), orNobody(gid))
	}
	if err := unix.Mount("toe-scratch", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mounting %d bytes of tmpfs at %s: %w", s.Bytes, s.Target, err)
	}
	return nil
}

func orNobody(id int) int {
	if id == 0 {
		return Nobody
	}
	return id
}

func (c Cell) writeFiles() error {
	for name, data := range c.Files {
		if err := writeFile(stage+name, data); err != nil {
			return err
		}
	}
	for name, data := range c.Programs {
		if err := writeFile(stage+name, data); err != nil {
			return err
		}
		if err := os.Chmod(stage+name, 0o555); err != nil {
			return err
		}
	}
	for name, target := range c.Links {
		if err := os.MkdirAll(filepath.Dir(stage+name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, stage+name); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o444)
}

// pivot makes the stage the root, lets go of the old one, and closes the new
// one for writing (not what is mounted on it).
func pivot() error {
	if err := unix.Chdir(stage); err != nil {
		return fmt.Errorf("chdir to the cell's root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// Both roots are at "." now, the old one on top (pivot_root(2), NOTES).
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir /: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return fmt.Errorf("making the cell's root read-only: %w", err)
	}
	return nil
}

// rawExec is the one call after the filter.
func rawExec(path *byte, args, env **byte, name string) error {
	_, _, e := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(args)), uintptr(unsafe.Pointer(env)))
	return fmt.Errorf("execve %s: %w", name, e)
}
