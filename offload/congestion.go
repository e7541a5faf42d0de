package offload

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// congestion returns the congestion control for the wire: want, or the kernel's default if want is
// empty. told is the value to set on a new socket; it is empty when the default is the same. The
// link, which is shared memory, needs no congestion control, and its sockets keep the default.
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
	// Setting the option loads the module.
	if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, want); err != nil {
		have, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
		return "", "", fmt.Errorf("congestion control %q: the card's kernel has %s: %w", want, strings.TrimSpace(string(have)), err)
	}
	return want, want, nil
}
