package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// The subsystem is a process of its own that ends with its client.
func TestSFTP(t *testing.T) {
	server, addr, signer := startSSH(t)
	c, err := login(t, addr, signer)
	if err != nil {
		t.Fatal(err)
	}
	files, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file")
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	f, err := files.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, want %d: %v", len(got), len(want), err)
	}
	if _, ok := files.HasExtension("posix-rename@openssh.com"); !ok {
		t.Error("no rename that replaces")
	}
	eventually(t, 5*time.Second, "one process", func() error {
		server.procs.mu.Lock()
		defer server.procs.mu.Unlock()
		if len(server.procs.own) != 1 {
			return os.ErrNotExist
		}
		return nil
	})
	_ = c.Close()
	eventually(t, 5*time.Second, "the end of its process", func() error {
		server.procs.mu.Lock()
		defer server.procs.mu.Unlock()
		if len(server.procs.own) != 0 {
			return os.ErrExist
		}
		return nil
	})
}
