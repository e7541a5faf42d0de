package link

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// listenPatience limits two waits: for a live back end to accept a connection, and for another
// process to finish making a socket in the same folder.
const listenPatience = time.Second

// listen makes the socket at path. It replaces a socket on which no process answers, since a killed
// back end leaves its socket behind.
func listen(path string) (*net.UnixListener, error) {
	// A socket exists a moment before its owner listens on it. The lock keeps
	// two processes that start at once from taking each other's for a dead one.
	defer lockFolder(filepath.Dir(path))()
	at := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", at)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if err := dead(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("stale socket: %w", err)
	}
	return net.ListenUnix("unix", at)
}

// dead returns an error unless the file is a socket on which no process answers.
func dead(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("the file exists and is not a socket; not removed")
	}
	c, err := net.DialTimeout("unix", path, listenPatience)
	switch {
	case err == nil:
		c.Close()
		return errors.New("in use: another back end answers on it")
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	}
	return fmt.Errorf("possibly in use: %w", err)
}

// lockFolder excludes other processes that make sockets in a folder, until unlock is called. It
// goes on without the lock if the folder cannot be read, or if another program holds the lock for
// longer than listenPatience.
func lockFolder(path string) (unlock func()) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	for end := time.Now().Add(listenPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
			break
		}
	}
	return func() { unix.Close(fd) }
}
