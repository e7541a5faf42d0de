package fds

import (
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// CloseOnExecFrom marks every descriptor from first on to be closed when another
// program is executed. Before Linux 5.11 it needs /proc.
func CloseOnExecFrom(first int) error {
	err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == unix.ENOSYS || err == unix.EINVAL {
		return markListed(first)
	}
	if err != nil {
		return fmt.Errorf("close_range(%d, CLOEXEC): %w", first, err)
	}
	return nil
}

// markListed goes by /proc.
func markListed(first int) error {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("open descriptors: %w", err)
	}
	for _, e := range all {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
