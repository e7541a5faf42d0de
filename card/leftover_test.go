package card

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAbandoned(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name                 string
		temporary, abandoned bool
	}{
		{"edge", false, false},
		{"exec-", false, false},
		{"exec-edge", false, false},
		{"exec-0", false, false}, // no process has this number
		{Temporary(os.Getpid()).Name, true, false},
		{Temporary(1).Name, true, false},
		{Temporary(gone.Process.Pid).Name, true, true},
	} {
		card := Card{Name: c.name}
		if card.IsTemporary() != c.temporary || card.Abandoned() != c.abandoned {
			t.Errorf("%s: temporary %v, abandoned %v", c.name, card.IsTemporary(), card.Abandoned())
		}
	}
}

// A card.yaml that somebody has put there is a card: toe@NAME.service starts it.
func TestCardMadeByHand(t *testing.T) {
	dirs := testDirs(t)
	p := dirs.Card("edge")
	if err := os.MkdirAll(p.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Spec(), []byte("ports: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := dirs.Open("edge")
	if err != nil {
		t.Fatal(err)
	}
	r := startCard(t, newWorld(), c)
	r.await("health", inState(Healthy))
	if _, err := c.LoginKey(); err != nil {
		t.Errorf("no key to log in with: %v", err)
	}
}

func TestDialRefusesAPortThatIsNone(t *testing.T) {
	r := startCard(t, newWorld(), testCard(t, ""))
	r.await("health", inState(Healthy))
	for _, port := range []int{0, -1, 65536} {
		if _, err := r.c.Client().Dial(t.Context(), port); err == nil || !strings.Contains(err.Error(), "1 to 65535") {
			t.Errorf("port %d: %v", port, err)
		}
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

// An empty list says the same as none.
func TestDiffOfWhatIsTheSame(t *testing.T) {
	written := Default("edge")
	empty, err := Parse("card.yaml", []byte("dns: {servers: [], search: []}\ntime: {servers: []}\nports: [{name: wan, gateway: [], dns: []}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if live, restart := Diff(written, empty); len(live)+len(restart) > 0 {
		t.Errorf("differs: %q %q", live, restart)
	}
	if live, _ := Diff(written, mustParse(t, "dns: {servers: [192.0.2.1]}\n")); len(live) != 1 {
		t.Errorf("a resolver: %q", live)
	}
}

func mustParse(t *testing.T, text string) Spec {
	s, err := Parse("card.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A list that somebody has emptied stays empty when the file is read again.
func TestEmptyListsAreKept(t *testing.T) {
	c := testCard(t, "ports: [{name: wan, addresses: []}]\n")
	again, err := c.dirs.Open(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Spec.Ports[0].Addresses; len(got) != 0 {
		t.Errorf("addresses %v, want none", got)
	}
}

// A supervisor that is being killed resets the connections that it had no time
// to take: it does not run.
func TestSupervisorThatDiesDoesNotRun(t *testing.T) {
	c := testCard(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	for name, die := range map[string]func(net.Conn){
		"at once":    func(conn net.Conn) { conn.Close() },
		"when asked": func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := listenUnix(c.Paths.Socket())
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
			if err := c.Client().Reset(t.Context()); !errors.Is(err, ErrNotRunning) {
				t.Errorf("reset: %v, want ErrNotRunning", err)
			}
			if st, err := c.Status(t.Context()); err != nil || st.State != Stopped {
				t.Errorf("status: %s, %v", st.State, err)
			}
		})
	}
}
