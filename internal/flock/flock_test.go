package flock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Looking at a lock takes it for an instant, which must not keep a card from
// starting; and a lock on a file that was removed is none.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "supervisor.pid")
	stop, looked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		for {
			select {
			case <-stop:
				return
			default:
				_, _, _ = Owner(path)
			}
		}
	}()
	for i := range 300 {
		l, err := Try(path)
		if err != nil {
			t.Fatalf("try %d beside a process that looks: %v", i, err)
		}
		l.Release()
	}
	close(stop)
	<-looked
	first, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); !errors.Is(err, ErrHeld) {
		t.Errorf("a second one: %v, want ErrHeld", err)
	}
	waiter := make(chan *Lock)
	go func() {
		l, err := Try(path)
		if err != nil {
			t.Error(err)
		}
		waiter <- l
	}()
	time.Sleep(20 * time.Millisecond)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	first.Release()
	if second := <-waiter; second != nil {
		defer second.Release()
	}
	if _, held, err := Owner(path); err != nil || !held {
		t.Errorf("held %t, %v: the second lock is on a file that is gone", held, err)
	}
}
