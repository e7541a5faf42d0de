package card

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
)

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
		if _, err := NewClient(r.c).Dial(t.Context(), port); err == nil || !strings.Contains(err.Error(), "1 to 65535") {
			t.Errorf("port %d: %v", port, err)
		}
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
			if err := NewClient(c).Reset(t.Context()); !errors.Is(err, ErrNotRunning) {
				t.Errorf("reset: %v, want ErrNotRunning", err)
			}
			if st, err := StatusOf(t.Context(), c); err != nil || st.State != Stopped {
				t.Errorf("status: %s, %v", st.State, err)
			}
		})
	}
}
