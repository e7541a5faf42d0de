package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/control/cardpb"
)

func batchOf(n, size int) *cardpb.CaptureBatch {
	b := &cardpb.CaptureBatch{Received: 9, Dropped: 4}
	for range n {
		b.Packets = append(b.Packets, &cardpb.CapturedPacket{Length: uint32(size), Frame: make([]byte, size)})
	}
	return b
}

// A capture ends at its count or its size, and its file has the packets up to there.
func TestCapture(t *testing.T) {
	for _, c := range []struct {
		name    string
		capture capture
		packets uint64
		enough  bool
	}{
		{"all", capture{}, 100, false},
		{"count", capture{count: 7}, 7, true},
		{"count of the last", capture{count: 100}, 100, true},
		{"size", capture{limit: 1}, 16, true}, // of 64 KiB
	} {
		var said bytes.Buffer
		c.capture.file, c.capture.err = filepath.Join(t.TempDir(), "f"), &said
		err := c.capture.take(&cardpb.CaptureBatch{Interface: "wan"})
		for range 10 {
			if err == nil {
				err = c.capture.take(batchOf(10, 64<<10))
			}
		}
		if errors.Is(err, errEnough) != c.enough || c.capture.packets != c.packets {
			t.Errorf("%s: %d packets, %v", c.name, c.capture.packets, err)
		}
		if err := c.capture.finish(err); err != nil || !strings.HasSuffix(said.String(), "packets of wan, 4 dropped\n") {
			t.Errorf("%s: %v, %q", c.name, err, said.String())
		}
		info, err := os.Stat(c.capture.file)
		if err != nil || info.Size() != c.capture.written || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %d bytes written, %v", c.name, info, c.capture.written, err)
		}
	}
	// A refusal makes no file.
	refused := errors.New("no such port")
	none := &capture{file: filepath.Join(t.TempDir(), "f")}
	if err := none.finish(refused); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := os.Stat(none.file); err == nil {
		t.Error("a refused capture made its file")
	}
}
