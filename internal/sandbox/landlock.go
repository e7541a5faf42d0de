package sandbox

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// restrictLandlock denies the whole file system, TCP and UDP, abstract sockets and signals outside,
// as far as this kernel's Landlock supports them (Linux 5.13 and later). It is a second fence
// behind the seccomp filter, so a kernel without it is reported and not refused.
func restrictLandlock(r *Report) error {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return nil
	}
	if err := landlock.V11.BestEffort().Restrict(); err != nil {
		return fmt.Errorf("landlock (ABI %d): %w", abi, err)
	}
	r.Landlock = abi
	return nil
}
