package flock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Share takes a shared lock on the file or directory at path. Any number of processes hold one at
// a time; while one does, Exclude fails. The errors are fs.ErrNotExist, and ErrHeld where a process
// has excluded others, which is then about to remove path.
func Share(path string) (*Lock, error) { return existing(path, unix.LOCK_SH) }

// Exclude takes an exclusive lock on the file or directory at path, for its removal. The errors are
// fs.ErrNotExist, and ErrHeld where a process shares it.
func Exclude(path string) (*Lock, error) { return existing(path, unix.LOCK_EX) }

// existing locks path as it is: nothing is created and nothing written.
func existing(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = lockExisting(f, how)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

func lockExisting(f *os.File, how int) error {
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	if err != nil {
		return err
	}
	// Between open and flock it may have been removed. A lock on a removed file locks nothing.
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(f.Name()); err != nil || !os.SameFile(ours, there) {
		return ErrHeld
	}
	return nil
}
