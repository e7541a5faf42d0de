package passt

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link"
)

// socketpair makes the stream socket between passt and what pumps its frames.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair for passt: %w", err)
	}
	for _, fd := range fds {
		roomy(fd)
	}
	return os.NewFile(uintptr(fds[0]), "passt"), os.NewFile(uintptr(fds[1]), "passt's end"), nil
}

// roomy gives a socket the send buffer that a stream should have. Root may exceed
// the host's limit (net.core.wmem_max); less than that matters only to frames
// of more than 40 KiB (see link.SendBuffer).
func roomy(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, link.SendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, link.SendBuffer)
	}
}
