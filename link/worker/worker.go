// Package worker is the confined process that a keeper starts: a pump, or a disk's worker.
package worker

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link"
)

// orders is the descriptor of the socket on which the keeper sends its orders.
const orders = 3

// Main runs the worker and does not return in a process that a keeper started as its worker. In all
// others it does nothing. Each program that makes a link.Keeper or a disk.Keeper calls it first.
func Main() {
	if len(os.Args) != 2 {
		return
	}
	var work func(keeper int) error
	switch os.Args[1] {
	case link.PumpVerb:
		work = pump
	case disk.WorkerVerb:
		work = serveDisk
	default:
		return
	}
	keeper, err := peer(orders)
	if err == nil {
		err = work(keeper)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
	os.Exit(0)
}

func pump(keeper int) error {
	return link.Pump(orders, func() (string, error) {
		r, err := sandbox.Pump(sandbox.PumpOptions{Parent: keeper})
		return r.Lacks(), err
	})
}

func serveDisk(keeper int) error {
	return disk.Work(orders, func(file int, readOnly bool) (string, error) {
		r, err := sandbox.Pump(sandbox.PumpOptions{
			Parent: keeper, Disk: &sandbox.DiskFile{FD: file, ReadOnly: readOnly},
		})
		return r.Lacks(), err
	}, nil)
}

// peer returns the pid of the process that made the socket pair of which fd is one end. Unlike
// the parent's pid it stays the same when that process dies.
func peer(fd int) (pid int, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("descriptor %d: want the keeper's socket: SO_PEERCRED: %w", fd, err)
	}
	if cred.Pid <= 0 {
		const text = "descriptor %d: the process at its other end is in another PID namespace"
		return 0, fmt.Errorf(text, fd)
	}
	return int(cred.Pid), nil
}
