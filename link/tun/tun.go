// Package tun opens the host's end of a link or a port: a TUN (layer 3, no
// Ethernet) or a TAP, with a virtio header of 12 bytes before each packet and
// one descriptor per queue pair.
//
// See the kernel's Documentation/networking/tuntap.rst and if_tun.h.
package tun

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// MaxQueues is the most descriptors one device takes (MAX_TAP_QUEUES).
const MaxQueues = 256

// Offload is the set of offloads that the kernel behind a descriptor accepted in
// TUNSETOFFLOAD: which packets it may hand out, and which it takes.
type Offload uint

// The bits of TUNSETOFFLOAD, if_tun.h.
const (
	CSum Offload = unix.TUN_F_CSUM
	TSO4 Offload = unix.TUN_F_TSO4
	TSO6 Offload = unix.TUN_F_TSO6
	ECN  Offload = unix.TUN_F_TSO_ECN
	USO4 Offload = unix.TUN_F_USO4 // since 6.2, both or none
	USO6 Offload = unix.TUN_F_USO6
)

// ErrNotPermitted reports that the caller may not create or attach to the
// device. It needs CAP_NET_ADMIN in its network namespace, or ownership.
var ErrNotPermitted = errors.New("not permitted")

// Options choose the kind of device.
type Options struct {
	Name   string // interface name, 1 to 15 bytes
	Queues int    // descriptors, at least 1
	TAP    bool   // Ethernet frames instead of IP packets
}

// Open creates the device in the calling thread's network namespace, or
// attaches to it if it exists, and returns a descriptor per
// queue. The device goes away with its last descriptor unless it is persistent.
func Open(o Options) ([]*os.File, error) {
	if o.Queues < 1 || o.Queues > MaxQueues {
		return nil, fmt.Errorf("interface %s: %d queues: want 1 to %d", o.Name, o.Queues, MaxQueues)
	}
	files := make([]*os.File, 0, o.Queues)
	for range o.Queues {
		f, err := open(o)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func open(o Options) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := setup(fd, o); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Blocking, so that Go's poller does not watch it. The pump, which has
	// its own epoll, makes it non-blocking.
	return os.NewFile(uintptr(fd), "/dev/net/tun:"+o.Name), nil
}

func setup(fd int, o Options) error {
	ifr, err := unix.NewIfreq(o.Name)
	if err != nil {
		return fmt.Errorf("interface name %q: want 1 to 15 bytes: %w", o.Name, err)
	}
	flags := uint16(unix.IFF_TUN)
	if o.TAP {
		flags = unix.IFF_TAP
	}
	flags |= unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if o.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		switch err {
		case unix.EPERM:
			return fmt.Errorf("TUNSETIFF %s: %w", o.Name, ErrNotPermitted)
		case unix.EBUSY:
			return fmt.Errorf("TUNSETIFF %s: in use by another process: %w", o.Name, err)
		case unix.EINVAL:
			return fmt.Errorf("TUNSETIFF %s: exists as another kind of device (want %d queues, %s): %w", o.Name, o.Queues, kind(o.TAP), err)
		}
		return fmt.Errorf("TUNSETIFF %s: %w", o.Name, err)
	}
	return Header(fd)
}

// Header sets the length and the byte order of the virtio header on a TUN, TAP
// or macvtap descriptor: 12 bytes, little endian, as in virtio 1.2.
func Header(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, frame.HeaderLen); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ %d: %w", frame.HeaderLen, err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("TUNSETVNETLE: %w", err)
	}
	return nil
}

func kind(tap bool) string {
	if tap {
		return "tap"
	}
	return "tun"
}

// Probe finds the offloads that the kernel behind the descriptor accepts. It
// tries the largest set first and leaves the accepted ones set.
func Probe(fd int) (Offload, error) {
	all := []Offload{
		CSum | TSO4 | TSO6 | ECN | USO4 | USO6,
		CSum | TSO4 | TSO6 | ECN,
		CSum | TSO4 | TSO6,
		CSum,
		0,
	}
	var err error
	for _, o := range all {
		if err = SetOffload(fd, o); err == nil {
			return o, nil
		}
	}
	return 0, err
}

// SetOffload sets which packets the kernel may hand out: those that the driver on
// the card negotiated.
func SetOffload(fd int, o Offload) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(o)); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD %#x: %w", uint(o), err)
	}
	return nil
}

// SetQueue attaches or detaches one descriptor of several, so that the kernel
// steers nothing to a queue pair that the driver has switched off.
func SetQueue(fd int, on bool) error {
	var ifr struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	ifr.flags = unix.IFF_DETACH_QUEUE
	if on {
		ifr.flags = unix.IFF_ATTACH_QUEUE
	}
	// EINVAL: the queue is in the wanted state already.
	if err := ioctl(fd, unix.TUNSETQUEUE, &ifr.name[0]); err != nil && err != unix.EINVAL {
		return fmt.Errorf("TUNSETQUEUE on=%v: %w", on, err)
	}
	return nil
}
