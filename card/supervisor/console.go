package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
)

const (
	// consoleMax is the size at which console.log is moved to console.log.1.
	consoleMax = 1 << 20
	// acceptPause is between two tries to take a client.
	acceptPause = 50 * time.Millisecond
	// consoleReplay is how much a client is shown of what was there before it.
	consoleReplay = 4096
)

// console joins the card's serial console with its log and with any number
// of clients. All see the same, and all may type.
type console struct {
	path     string
	listener net.Listener

	mu      sync.Mutex // guards what follows
	log     *os.File
	size    int64
	recent  []byte // the last bytes, for clients that come later
	machine net.Conn
	clients map[net.Conn]chan []byte
	closed  bool
	tasks   sync.WaitGroup
}

func openConsole(p store.Paths) (*console, error) {
	c := &console{path: p.ConsoleLog(), clients: map[net.Conn]chan []byte{}}
	if err := c.rotate(); err != nil {
		return nil, err
	}
	var err error
	if c.listener, err = listenUnix(p.ConsoleSock()); err != nil {
		c.log.Close()
		return nil, err
	}
	c.tasks.Add(1)
	go c.accept()
	return c, nil
}

// listenUnix listens at path, mode 0600, in the place of a dead socket.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// rotate begins a new log and keeps one old one. Called with mu held, or before c is
// shared.
func (c *console) rotate() error {
	if c.log != nil {
		c.log.Close()
	}
	if err := os.Rename(c.path, c.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	c.log, err = os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	c.size = 0
	return err
}

// connect makes a new pair of sockets, reads one end, and returns the other
// for the machine.
func (c *console) connect() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair for the console: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "console")
	theirs := os.NewFile(uintptr(fds[1]), "console of the machine")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.machine != nil {
		c.machine.Close()
	}
	c.machine = conn
	c.tasks.Add(1)
	go c.read(conn)
	return theirs, nil
}

func (c *console) read(conn net.Conn) {
	defer c.tasks.Done()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		c.spread(buf[:n])
		if err != nil {
			return
		}
	}
}

// spread writes what the card printed to the log and to all clients. A client that
// does not keep up loses some of it: the card never waits.
func (c *console) spread(data []byte) {
	if len(data) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	n, _ := c.log.Write(data) // a full disk must not stop the console
	if c.size += int64(n); c.size >= consoleMax {
		_ = c.rotate()
	}
	c.recent = append(c.recent, data...)
	c.recent = append([]byte(nil), c.recent[max(len(c.recent)-consoleReplay, 0):]...)
	for _, out := range c.clients {
		select {
		case out <- append([]byte(nil), data...):
		default:
		}
	}
}

func (c *console) accept() {
	defer c.tasks.Done()
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, say: it may pass
			time.Sleep(acceptPause)
			continue
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			conn.Close()
			return
		}
		out := make(chan []byte, 256)
		out <- append([]byte(nil), c.recent...)
		c.clients[conn] = out
		c.tasks.Add(2)
		c.mu.Unlock()
		go c.write(conn, out)
		go c.listen(conn)
	}
}

// write shows the console to one client.
func (c *console) write(conn net.Conn, out <-chan []byte) {
	defer c.tasks.Done()
	for data := range out {
		_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write(data); err != nil {
			conn.Close()
			return
		}
	}
}

// listen gives the card what one client types.
func (c *console) listen(conn net.Conn) {
	defer c.tasks.Done()
	buf := make([]byte, 1024)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			c.typed(buf[:n])
		}
		if err != nil {
			c.drop(conn)
			return
		}
	}
}

func (c *console) typed(data []byte) {
	c.mu.Lock()
	m := c.machine
	c.mu.Unlock()
	if m != nil {
		// Input is dropped if the card does not read its console.
		_ = m.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = m.Write(data)
	}
}

func (c *console) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if out, ok := c.clients[conn]; ok {
		delete(c.clients, conn)
		close(out)
	}
	conn.Close()
}

// tail is the end of what the card printed, at most n bytes, whole lines.
func (c *console) tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return store.LastLines(c.recent, n)
}

// Close ends all connections and waits for their goroutines.
func (c *console) Close() {
	c.mu.Lock()
	c.closed = true
	if c.machine != nil {
		c.machine.Close()
	}
	for conn, out := range c.clients {
		delete(c.clients, conn)
		close(out)
		conn.Close()
	}
	c.log.Close()
	c.mu.Unlock()
	c.listener.Close()
	c.tasks.Wait()
}
