package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/internal/flock"
)

// A temporary card is removed by its supervisor and by the command it was made for.
func TestTwoRemoveACard(t *testing.T) {
	for range 20 {
		c := storetest.Card(t, "")
		errs := make(chan error)
		for range 2 {
			go func() { errs <- Remove(c) }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if names, _ := c.Dirs.List(); len(names) != 0 {
			t.Errorf("after rm there is %v", names)
		}
		for _, dir := range []string{c.Paths.State, c.Paths.Runtime} {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is still there", dir)
			}
		}
	}
}

// A socket in a directory that other users can write to is refused: its owner would decide where
// toe exec connects to.
func TestSocketOfSomebodyElseIsRefused(t *testing.T) {
	c := storetest.Card(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{c.Paths.Socket(), c.Paths.ConsoleSock()} {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if conn, err := Console(t.Context(), c); err != nil {
		t.Fatalf("in a folder of our own: %v", err)
	} else {
		conn.Close()
	}
	for _, dir := range []string{c.Paths.Runtime, filepath.Dir(c.Paths.Runtime)} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := Console(t.Context(), c); err == nil || !strings.Contains(err.Error(), "others may write to it") {
			t.Errorf("console: %v", err)
		}
		if _, err := New(c).Status(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "others may write to it") {
			t.Errorf("status: %v", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
func TestSupervisorThatDoesNotAnswerIsNamed(t *testing.T) {
	c := storetest.Card(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := flock.Try(c.Paths.Lock())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	socket, err := net.Listen("unix", c.Paths.Socket()) // no process accepts
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cl := New(c)
	cl.limit = 50 * time.Millisecond
	_, err = cl.Status(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("supervisor (pid %d) does not answer", os.Getpid())) {
		t.Errorf("status: %v", err)
	}
}

// A supervisor that is being killed resets the connections that it had no time
// to take: it does not run.
func TestSupervisorThatDiesDoesNotRun(t *testing.T) {
	c := storetest.Card(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	for name, die := range map[string]func(net.Conn){
		"at once":    func(conn net.Conn) { conn.Close() },
		"when asked": func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("unix", c.Paths.Socket())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					die(conn)
				}
			}()
			if err := New(c).Reset(t.Context()); !errors.Is(err, ErrNotRunning) {
				t.Errorf("reset: %v, want ErrNotRunning", err)
			}
			if st, err := Status(t.Context(), c); err != nil || st.State != status.Stopped {
				t.Errorf("status: %s, %v", st.State, err)
			}
		})
	}
}

// A connection that Dial returns works, also where its context ends at that moment.
func TestDialAsItsContextEnds(t *testing.T) {
	c := storetest.Card(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
				_, _ = io.Copy(conn, r)
			}()
		}
	}()
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(rand.IntN(200))*time.Microsecond, cancel)
		conn, err := New(c).Dial(ctx, 1)
		timer.Stop()
		cancel()
		if err != nil {
			continue
		}
		if _, err = conn.Write([]byte{1}); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
}
