package uml

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/machine/internal/trial"
)

func TestHoldLastPage(t *testing.T) {
	for size, want := range map[int]int64{0: 4, 1: 1, 4: 4, 60: 60, 64: 68, 72: 76, 124: 124, 4096: 4100} {
		initrd := filepath.Join(t.TempDir(), "initrd")
		data := bytes.Repeat([]byte{'x'}, size)
		if err := os.WriteFile(initrd, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // of a card that starts again
			if err := holdLastPage(initrd); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(initrd)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(got)) != want || !bytes.HasPrefix(got, data) || len(bytes.Trim(got[size:], "\x00")) != 0 {
			t.Errorf("%d bytes became %d, want %d, the same and zeros behind them", size, len(got), want)
		}
	}
}

// TestLastPageIsHeld boots with an initramfs that ends at the very end of the
// card's memory if it is left as it is, and looks there.
func TestLastPageIsHeld(t *testing.T) {
	s := spec(t, "echo")
	st, err := os.Stat(s.Initrd)
	if err == nil {
		err = os.Truncate(s.Initrd, (st.Size()+63)&^63)
	}
	if err != nil {
		t.Fatal(err)
	}
	card := trial.Start(t, New(Config{}), s)
	card.Await(t, "trial: up", bootLimit)
	page, err := lastPage(card.PID())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("TRAILER!!!")) {
		t.Errorf("the last page of the card's memory is no more the initramfs's end, but % x …", page[:16])
	}
}

// lastPage reads the end of the memory of a card's kernel. It is mapped from a
// file that has no name, in pieces that adjoin.
func lastPage(pid int) ([]byte, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	end := uint64(0)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return nil, fmt.Errorf("/proc/%d/maps: %q: %w", pid, line, err)
		}
		if strings.Contains(line, cellMemory+"/") && (end == 0 || from == end) {
			end = to
		}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	_, err = f.ReadAt(page, int64(end)-int64(len(page)))
	return page, err
}
