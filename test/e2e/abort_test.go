package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// abortLimit is the maximum time until a reader gets an error after its card has died.
const abortLimit = 5 * time.Second

// idleReader is a connection to the world's echo whose program only reads.
type idleReader struct{ end chan error }

func startIdleReader(t *testing.T, netns string) idleReader {
	t.Helper()
	c, err := dialIn(netns, "tcp", net.JoinHostPort(worldAddr, "7"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := idleReader{make(chan error, 1)}
	go func() {
		_, err := c.Read(make([]byte, 1))
		r.end <- err
	}()
	return r
}

// ends expects an error, not an end of the data.
func (r idleReader) ends(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.end:
		if !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the reader was told %v; want that its connection was aborted or reset", err)
		}
	case <-time.After(abortLimit):
		t.Errorf("a program still reads from the card's last life, after %s", abortLimit)
	}
}

func (r idleReader) waits(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.end:
		t.Errorf("the reader was told %v", err)
	default:
	}
}

// TestRouterKeepsConnections: a forwarded connection has its ends elsewhere, and survives the
// router.
func TestRouterKeepsConnections(t *testing.T) {
	j := newJourney(t, kinds[0])
	file := filepath.Join(j.dir, "card.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	j.spec(t, "card.yaml", string(text)+"offload: {mode: router}\n")
	j.up(t)
	j.killMachine(t)
}
