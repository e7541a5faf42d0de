package offload

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// congestion finds who controls congestion on the wire: want, which may be
// empty, or the kernel's own choice. told is what a new socket has to be told,
// which is nothing when it has that by itself. The link needs no control: what
// crosses it is memory, and there the kernel's choice stays.
func congestion(want string) (control, told string, err error) {
	fd, err := newSocket(unix.AF_INET, unix.SOCK_STREAM)
	if err != nil {
		return "", "", err
	}
	defer unix.Close(fd)
	own, err := unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return "", "", fmt.Errorf("the kernel's congestion control: %w", err)
	}
	if want == "" || want == own {
		return own, "", nil
	}
	// Asking for one loads its module.
	if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, want); err != nil {
		have, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
		return "", "", fmt.Errorf("congestion control %q: the card's kernel has %s: %w", want, strings.TrimSpace(string(have)), err)
	}
	return want, want, nil
}
