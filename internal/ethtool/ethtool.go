// Package ethtool switches what a network device does for its packets, by the
// ioctls of linux/ethtool.h.
package ethtool

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setTSO is ETHTOOL_STSO of linux/ethtool.h, which x/sys does not name.
const setTSO = 0x1f

// value is struct ethtool_value.
type value struct{ cmd, data uint32 }

// request is struct ifreq with a pointer in its union.
type request struct {
	name [unix.IFNAMSIZ]byte
	data *value
	_    [16]byte
}

// SetTSO reports whether the device called name, in the calling thread's network
// namespace, gets TCP segments larger than its MTU. Packets that are cut
// before it are still made and checked in one piece by the kernel above.
func SetTSO(name string, on bool) error {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("device %q: want a name of 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	v := &value{cmd: setTSO}
	if on {
		v.data = 1
	}
	r := request{data: v}
	copy(r.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(v)
	if errno != 0 {
		return fmt.Errorf("ETHTOOL_STSO %d on %s: %w", v.data, name, errno)
	}
	return nil
}
