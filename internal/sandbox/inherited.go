package sandbox

import (
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
)

// firstInherited is the first descriptor after stdin, stdout and stderr.
const firstInherited = 3

// CloseInherited closes every descriptor from 3 on that this process was started with, except keep.
// Neither this process nor its children have a use for what a shell left open. The ones in keep are
// marked close-on-exec.
//
// A descriptor that came through execve(2) has no such mark, and everything that Go opens has one:
// this distinguishes the two. So call it before making descriptors that are passed on. Without
// /proc the descriptors stay open here, but are not passed on.
func CloseInherited(keep ...int) error {
	all, err := inherited()
	if err == nil {
		for _, fd := range all {
			if !slices.Contains(keep, fd) {
				unix.Close(fd)
			}
		}
	}
	return fds.CloseOnExecFrom(firstInherited)
}

// inherited returns the descriptors that came through execve(2).
func inherited() ([]int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < firstInherited {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			all = append(all, fd)
		}
	}
	return all, nil
}
