package supervisor

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/store/storetest"
)

func TestConsoleLogIsBounded(t *testing.T) {
	p := storetest.Dirs(t).Card("x")
	if err := p.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	c, err := openConsole(p)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 50 {
		c.spread(make([]byte, 100<<10))
	}
	var sum int64
	for _, f := range []string{p.ConsoleLog(), p.ConsoleLog() + ".1"} {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += fi.Size()
	}
	if sum > 2*consoleMax+200<<10 {
		t.Errorf("the logs have %d bytes", sum)
	}
}

// scarce is a listener that has no descriptor to spare at first.
type scarce struct {
	net.Listener
	left int
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.left--; s.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return s.Listener.Accept()
}

func TestConsoleOutlivesAShortageOfDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := &console{listener: &scarce{Listener: l, left: 2}, log: log, recent: []byte("hello"), clients: map[net.Conn]chan []byte{}}
	c.tasks.Add(1)
	go c.accept()
	defer c.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	got := make([]byte, 5)
	if n, err := conn.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("read %q, %v", got[:n], err)
	}
}
