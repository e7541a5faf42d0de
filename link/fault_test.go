package link

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A card that cuts its memory file short (SIGBUS at the next look at a ring)
// ends its pump, and nothing else: the keeper tells of it, starts others with
// the ring left out or gives up for a while, and closes in time.
func TestMemoryFileTruncated(t *testing.T) {
	w := newWorld(t, worldOptions{process: true})
	w.passes(t)
	old := w.k.PumpPID()
	_, tx := w.card.Pair(0)
	if err := w.card.MemoryFile().Truncate(0); err != nil {
		t.Fatal(err)
	}
	tx.Kick()
	w.told(t, "ended")
	if pid := w.k.PumpPID(); pid == old {
		t.Errorf("pump %d still runs", pid)
	}
	began := time.Now()
	w.card.Close()
	w.card = nil
	w.k.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("closing took %s", d)
	}
}

// A ring that lies outside the memory, or is not aligned, is refused where the
// front end asks; the conversation and the other rings live on.
func TestRingOutsideMemory(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.passes(t)
	if _, err := w.card.Stop(1); err != nil {
		t.Fatal(err)
	}
	if err := w.card.StartAt(1, 1<<40); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a ring outside the memory: %v", err)
	}
	w.down(t)
	if err := w.card.Restart(1); err != nil {
		t.Fatal(err)
	}
	w.passes(t)
}

// A keeper whose pump cannot be started says so at once and leaves nothing.
func TestNoPumpAtAll(t *testing.T) {
	h := newHost(t, false, 1)
	_, err := NewKeeper(Device{Name: "test", MAC: make([]byte, 6), MTU: 65535, Files: h.files, Seam: true},
		Options{Launch: func(*os.File) (Process, error) { return nil, unix.ENOENT }})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v, want ENOENT", err)
	}
}

// Devices that cannot be are refused, and their files closed.
func TestDeviceCheck(t *testing.T) {
	mac := make([]byte, 6)
	for name, d := range map[string]Device{
		"no file":          {MAC: mac, MTU: 1500},
		"no MAC":           {MTU: 1500, Stream: true},
		"MTU 67":           {MAC: mac, MTU: 67, Stream: true},
		"MTU 65536":        {MAC: mac, MTU: 65536, Stream: true},
		"stream with seam": {MAC: mac, MTU: 1500, Stream: true, Seam: true},
		"file is no TUN":   {MAC: mac, MTU: 1500},
	} {
		if name != "no file" {
			d.Files = newBareFile(t)
		}
		if k, err := NewKeeper(d, Options{Launch: here}); err == nil {
			k.Close()
			t.Errorf("%s: taken", name)
		}
		if len(d.Files) > 0 && d.Files[0].Close() == nil {
			t.Errorf("%s: its file was left open", name)
		}
	}
}

// newBareFile is a host's end that is nothing but a file.
func newBareFile(t testing.TB) []*os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "host")
	if err != nil {
		t.Fatal(err)
	}
	return []*os.File{f}
}
