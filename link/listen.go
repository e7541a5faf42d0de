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

// listenPatience is how long whoever serves a socket may take to let somebody in,
// and how long another may be in the middle of making one beside it.
const listenPatience = time.Second

// listen makes the socket at path. One that is there already and that nobody
// answers on is what a back end has left that was killed, and is replaced.
func listen(path string) (*net.UnixListener, error) {
	// Of two who start at once, neither must take the other's socket, which is
	// there a moment before it is answered, for a dead one.
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
		return nil, fmt.Errorf("socket that nobody answers on: %w", err)
	}
	return net.ListenUnix("unix", at)
}

// dead is an error unless the file is a socket that nobody answers on.
func dead(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("there is a file of that name, and it is no socket; it stays")
	}
	c, err := net.DialTimeout("unix", path, listenPatience)
	switch {
	case err == nil:
		c.Close()
		return errors.New("in use: another back end answers on it")
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	}
	return fmt.Errorf("in use, as far as can be told: %w", err)
}

// lockFolder keeps others out who make sockets in a folder, until what it returns
// is called. It does without where the folder cannot be read, or somebody who is
// none of us has locked it for longer.
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
