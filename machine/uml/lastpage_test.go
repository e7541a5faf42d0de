package uml

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/machine/internal/trial"

	"github.com/toe-project/toe/internal/umlmem"
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

// TestLastPageIsHeld boots with an initramfs that without padding ends exactly at the end of the
// card's memory, and checks the last page.
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
	page, err := umlmem.LastPage(card.PID())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("TRAILER!!!")) {
		t.Errorf("the last page of the card's memory is no more the initramfs's end, but % x …", page[:16])
	}
}
