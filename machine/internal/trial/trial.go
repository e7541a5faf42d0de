// Package trial boots real machines in tests.
package trial

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/newc"
	"github.com/toe-project/toe/machine"
	"golang.org/x/sys/unix"
)

// Initrd builds the trial's process 1 and an initramfs with it.
func Initrd(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, "github.com/toe-project/toe/machine/internal/trial/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the trial's init: %v\n%s", err, out)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	err = newc.Write(&archive, []newc.File{
		newc.Dir("/dev", 0o755), newc.CharDevice("/dev/console", 0o600, 5, 1), newc.Regular("/init", 0o755, data),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Card is a machine under trial and its console output.
type Card struct {
	machine.Instance
	Console *os.File

	mu   sync.Mutex
	said bytes.Buffer  // guarded by mu
	more chan struct{} // signalled at each line
}

// Start boots spec on m. The card is stopped at the end of the test.
func Start(t testing.TB, m machine.Machine, spec machine.Spec) *Card {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(fds[0], true)
	c := &Card{Console: os.NewFile(uintptr(fds[0]), "console"), more: make(chan struct{}, 1)}
	spec.Console = os.NewFile(uintptr(fds[1]), "machine's console")
	spec.Dir = t.TempDir()
	if spec.Name == "" {
		spec.Name = "trial"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if c.Instance, err = m.Start(ctx, spec); err != nil {
		c.Console.Close()
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(c, c.Console) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Stop(ctx); err != nil {
			t.Error(err)
		}
		c.Console.Close()
		<-read
	})
	return c
}

// Write records console output.
func (c *Card) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
	return c.said.Write(p)
}

// Said returns all console output so far.
func (c *Card) Said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

// Await waits for text on the console.
func (c *Card) Await(t testing.TB, text string, limit time.Duration) {
	t.Helper()
	late := time.After(limit)
	for !strings.Contains(c.Said(), text) {
		select {
		case <-c.more:
		case <-c.Done():
			time.Sleep(10 * time.Millisecond) // for output that is still in the socket
			if !strings.Contains(c.Said(), text) {
				t.Fatalf("ended with %v before it said %q:\n%s", c.Exit(), text, c.Said())
			}
		case <-late:
			t.Fatalf("did not say %q within %v:\n%s", text, limit, c.Said())
		}
	}
}

// Ends waits for the end and checks its cause.
func (c *Card) Ends(t testing.TB, want machine.Cause, limit time.Duration) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(limit):
		t.Fatalf("has not ended within %v, want %q:\n%s", limit, want, c.Said())
	}
	if got := c.Exit(); got.Cause != want {
		t.Errorf("ended with %v, want %q:\n%s", got, want, c.Said())
	}
}
