package vhostuser

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// notifier checks a kick, call or error descriptor, and returns the file to use in its place. The
// descriptor must be an eventfd. A call descriptor may also be a pipe or a unix socket (User-Mode
// Linux, which is called by signals, has a socket pair). Every other kind is refused. O_NONBLOCK
// has no effect on a regular file, and a write to one on a disk or on a file system in user space
// may take without limit. An epoll descriptor, for example, is as unsuitable. notifier checks the
// name of the file, which involves no file system.
//
// O_NONBLOCK belongs to the open file, which the front end shares and may change again. So notifier
// reopens a pipe. A socket and an eventfd cannot be reopened. notifier closes f unless it returns
// f. f may be nil.
func notifier(f *os.File, call bool) (*os.File, error) {
	if f == nil {
		return nil, nil
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	name, err := os.Readlink(path)
	if err != nil {
		f.Close()
		return nil, err
	}
	switch {
	case name == "anon_inode:[eventfd]":
		return f, nil
	case call && strings.HasPrefix(name, "socket:"):
		if domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_UNIX {
			return f, nil
		}
		name = "a socket that is not AF_UNIX"
	case call && strings.HasPrefix(name, "pipe:"):
		defer f.Close()
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("pipe: open for writing: %w", err)
		}
		return unpolled(fd)
	}
	f.Close()
	if call {
		return nil, fmt.Errorf("descriptor of %s, want an eventfd, a pipe or a unix socket", name)
	}
	return nil, fmt.Errorf("descriptor of %s, want an eventfd", name)
}
