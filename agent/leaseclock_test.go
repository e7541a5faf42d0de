package agent

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// TestBootClock: a wait ends at its time, at a wake-up or with its context, and
// reports no step of the wall clock.
func TestBootClock(t *testing.T) {
	var c bootClock
	start := c.now()
	if c.wait(t.Context(), start+20*time.Millisecond) || c.now() < start+20*time.Millisecond {
		t.Errorf("waited from %v to %v, want 20 ms at least", start, c.now())
	}
	if c.wait(t.Context(), start-time.Hour) {
		t.Error("a time that has passed: stepped")
	}
	const pause = 10 * time.Millisecond
	wake := make(chan struct{})
	start = c.now()
	time.AfterFunc(pause, func() { close(wake) })
	if c.wait(t.Context(), far, nil, wake) || c.now() < start+pause {
		t.Errorf("woken after %v, by a step or before %v", c.now()-start, pause)
	}
	ctx, cancel := context.WithCancel(t.Context())
	start = c.now()
	time.AfterFunc(pause, cancel)
	if c.wait(ctx, far) || c.now() < start+pause {
		t.Errorf("cancelled after %v, by a step or before %v", c.now()-start, pause)
	}
	before := openFiles(t)
	for range 50 {
		c.wait(t.Context(), c.now())
	}
	eventually(t, 3*time.Second, "end of the timers", func() error {
		if n := openFiles(t); n > before {
			return fmt.Errorf("%d open files, %d before", n, before)
		}
		return nil
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
