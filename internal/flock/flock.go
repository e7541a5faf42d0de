// Package flock locks by files (flock(2)). A lock is held for as long as its file
// is open, so it ends with its process, however that ends.
package flock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld: another process holds the lock.
var ErrHeld = errors.New("the lock is held by another process")

// Lock is a lock that is held.
type Lock struct{ f *os.File }

// patience is how long Try insists: Owner holds a lock for an instant, and a
// process that removes the file not for long.
const patience = time.Second

// Try takes the lock at path and writes this process's id there. It returns
// ErrHeld when another process holds it.
func Try(path string) (*Lock, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		l, err := once(path)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return l, err
		}
		if time.Now().After(deadline) {
			return nil, ErrHeld
		}
	}
}

func once(path string) (_ *Lock, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The holder before may have removed the file. A lock on a removed file locks nothing.
	ours, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(ours, there) {
		return nil, fmt.Errorf("lock %s: replaced: %w", path, unix.EWOULDBLOCK)
	}
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// waitLimit is how long Wait waits.
const waitLimit = 10 * time.Second

// Wait takes a lock that every process holds for a moment only.
func Wait(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &Lock{f}, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline) || errors.Is(err, unix.EINTR) {
			continue
		}
		f.Close()
		return nil, fmt.Errorf("lock %s, which another toe holds: %w", path, err)
	}
}

// Note writes text into the lock file, for Note.
func (l *Lock) Note(text string) error {
	_, err := l.f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"+text+"\n"), 0)
	return err
}

// Note returns what the holder of the lock at path noted there. It waits a
// moment for one that has just taken the lock.
func Note(path string) string {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		data, _ := os.ReadFile(path)
		_, text, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
		if text != "" || time.Now().After(deadline) {
			return text
		}
	}
}

// Release lets go of the lock.
func (l *Lock) Release() { l.f.Close() }

// Owner returns the process id in the lock file at path, and whether that
// process still holds the lock. The pid is 0 where there is no file, or nothing in it.
func Owner(path string) (pid int, held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 32))
	first, _, _ := strings.Cut(string(data), "\n")
	pid, _ = strconv.Atoi(first)
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return pid, false, nil // the close releases it
	case errors.Is(err, unix.EWOULDBLOCK):
		return pid, true, nil
	}
	return pid, false, fmt.Errorf("lock %s: %w", path, err)
}
