package card

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

// ErrRunning: the card has a supervisor. Talk to it, or take the card down.
var ErrRunning = errors.New("the card is running")

// A lock is held for as long as its file is open, so it ends with its process
// however that ends.
type lock struct{ f *os.File }

// lockPatience is how long tryLock insists: somebody who only looks at a lock
// (holder) has it for an instant, and somebody who removes a card not for long.
const lockPatience = 200 * time.Millisecond

// tryLock takes the lock at path and writes this process's id there.
// It returns ErrRunning when another process holds it.
func tryLock(path string) (*lock, error) {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(5 * time.Millisecond) {
		l, err := lockOnce(path)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return l, err
		}
		if time.Now().After(deadline) {
			return nil, ErrRunning
		}
	}
}

func lockOnce(path string) (_ *lock, err error) {
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
	// Whoever held it may have removed the file: then this is nobody's lock.
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
	return &lock{f}, nil
}

// momentLimit is how long somebody may hold a lock that is only ever held for
// a moment, before that is an error.
const momentLimit = 10 * time.Second

// waitLock takes a lock that is only ever held for a moment.
func waitLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(momentLimit); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &lock{f}, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline) || errors.Is(err, unix.EINTR) {
			continue
		}
		f.Close()
		return nil, fmt.Errorf("lock %s, which another toe holds: %w", path, err)
	}
}

func (l *lock) release() { l.f.Close() }

// holder tells who holds the lock at path: the process id that was written
// into it, and whether that process still holds it. A pid of 0 means that
// nobody did since the file was made.
func holder(path string) (pid int, held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 32))
	pid, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return pid, false, nil // closing lets go of it
	case errors.Is(err, unix.EWOULDBLOCK):
		return pid, true, nil
	}
	return pid, false, fmt.Errorf("lock %s: %w", path, err)
}
