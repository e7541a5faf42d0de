package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ext4Resize is EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h, _IOW('f', 16, __u64): the number of blocks that
// the file system is to have.
const ext4Resize = 0x40086610

// growRoot makes the root's file system as large as its disk or partition, once: that of an image is
// as small as its files allow.
func growRoot(log *Log) { growFS(log, "/") }

// growFS makes the file system at path as large as its partition.
func growFS(log *Log, path string) {
	now, want, err := diskBlocks(path)
	// What ext4 itself takes is not among the blocks that statfs counts.
	if err != nil || want < now+now/8 {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Resize, uintptr(unsafe.Pointer(&want)))
	if e != 0 {
		log.Sayf("%s: EXT4_IOC_RESIZE_FS to %d blocks: %v", path, want, e)
		return
	}
	log.Printf("%s: grown from %d to %d blocks", path, now, want)
}

// diskBlocks returns how many blocks the file system at path has, and how many its disk has.
func diskBlocks(path string) (now, disk uint64, err error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, err
	}
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, err
	}
	name := fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, 0, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54)
	if err != nil || fs.Bsize <= 0 {
		return 0, 0, fmt.Errorf("%s: %q: %w", name, text, err)
	}
	return fs.Blocks, sectors * 512 / uint64(fs.Bsize), nil
}
