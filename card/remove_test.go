package card

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A temporary card is removed by its supervisor and by the command it was made for.
func TestTwoRemoveACard(t *testing.T) {
	for range 20 {
		c := testCard(t, "")
		errs := make(chan error)
		for range 2 {
			go func() { errs <- Remove(c) }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{c.Paths.State, c.Paths.Runtime} {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is still there", dir)
			}
		}
	}
}

// A socket in a folder that others may write to is not talked to: whoever put
// it there would tell toe exec where to go.
func TestSocketOfSomebodyElseIsRefused(t *testing.T) {
	c := testCard(t, "")
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{c.Paths.Socket(), c.Paths.ConsoleSock()} {
		l, err := listenUnix(socket)
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
		if _, err := NewClient(c).Status(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "others may write to it") {
			t.Errorf("status: %v", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
