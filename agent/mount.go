package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mount struct {
	kind, at, options string
	flags             uintptr
}

const quiet = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// mounts in their order.
var mounts = []mount{
	{"proc", "/proc", "", quiet},
	{"sysfs", "/sys", "", quiet},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
	{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/run", "mode=0755,size=20%", quiet},
	{"tmpfs", "/tmp", "mode=1777,size=20%", unix.MS_NOSUID | unix.MS_NODEV},
}

// mountErrors are kept until the log exists.
var mountErrors []error

func mountAll() {
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			mountErrors = append(mountErrors, err)
		}
		err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel's own devtmpfs
			mountErrors = append(mountErrors, fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err))
		}
	}
}

func logMounts(log *Log) {
	for _, err := range mountErrors {
		log.Sayf("%v", err)
	}
}

// unmountAll is the reverse of mountAll, except for the root, which is memory.
func unmountAll(log *Log) {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].at == "/dev" || mounts[i].at == "/proc" {
			continue // the console's own
		}
		if err := unix.Unmount(mounts[i].at, unix.MNT_DETACH); err != nil {
			log.Printf("unmount %s: %v", mounts[i].at, err)
		}
	}
}
