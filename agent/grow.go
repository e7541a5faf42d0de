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
func growRoot(log *Log) {
	now, want, err := rootBlocks()
	// What ext4 itself takes is not among the blocks that statfs counts.
	if err != nil || want < now+now/8 {
		return
	}
	f, err := os.Open("/")
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Resize, uintptr(unsafe.Pointer(&want)))
	if e != 0 {
		log.Sayf("root: EXT4_IOC_RESIZE_FS to %d blocks: %v", want, e)
		return
	}
	log.Printf("root: grown from %d to %d blocks", now, want)
}

// rootBlocks returns how many blocks the root's file system has, and how many its disk has.
func rootBlocks() (now, disk uint64, err error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Stat("/", &st); err != nil {
		return 0, 0, err
	}
	if err := unix.Statfs("/", &fs); err != nil {
		return 0, 0, err
	}
	name := fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(st.Dev), unix.Minor(st.Dev))
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
