package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
)

// follower reads the events of a card in the background.
type follower struct {
	lines chan status.EventLine
	ended chan error
}

func follow(ctx context.Context, r *runningCard) *follower {
	f := &follower{lines: make(chan status.EventLine, 1024), ended: make(chan error, 1)}
	go func() {
		f.ended <- client.Events(ctx, r.c, true, func(e status.EventLine) { f.lines <- e })
	}()
	return f
}

// next waits for an event with this text.
func (f *follower) next(t *testing.T, text string) {
	t.Helper()
	for limit := time.After(10 * time.Second); ; {
		select {
		case e := <-f.lines:
			if strings.Contains(e.Text, text) {
				return
			}
		case err := <-f.ended:
			t.Fatalf("the events ended (%v) before %q", err, text)
		case <-limit:
			t.Fatalf("no event %q within 10 s", text)
		}
	}
}

func (f *follower) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the events did not end within 10 s")
		return nil
	}
}

// A follower gets the history, what comes, and what the supervisor says last, after its socket
// is closed; then its stream ends.
func TestEventsAreFollowedToTheEnd(t *testing.T) {
	r := startCard(t, newScene(), storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	r.s.board.event("before")
	f := follow(t.Context(), r)
	f.next(t, "before")
	r.s.board.event("while")
	f.next(t, "while")
	for range deviceBurst + 3 {
		r.s.board.deviceEvent("link", "again")
	}
	r.stop()
	_ = r.wait()
	f.next(t, "3 more events") // is written when the meters are released, at the very end
	if err := f.end(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	var again []string
	err := client.Events(t.Context(), r.c, false, func(e status.EventLine) { again = append(again, e.Text) })
	if text := strings.Join(again, "\n"); err != nil || !strings.Contains(text, "before") || !strings.Contains(text, "3 more") {
		t.Errorf("of the stopped card: %q, %v", text, err)
	}
	err = client.Events(t.Context(), r.c, true, func(status.EventLine) {})
	if !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("following a stopped card: %v", err)
	}
}

// A follower that leaves ends its handler.
func TestEventsEndWithTheirReader(t *testing.T) {
	r := startCard(t, newScene(), storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	ctx, cancel := context.WithCancel(t.Context())
	f := follow(ctx, r)
	r.s.board.event("one")
	f.next(t, "one")
	cancel()
	_ = f.end(t)
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte(".serveEvents(")) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the handler is still there after 10 s")
		}
	}
}

// A reader that does not read costs the supervisor no memory and no event of others; it is
// told what it missed.
func TestSlowReaderMissesEvents(t *testing.T) {
	h := newHistory()
	for i := range 3 * maxRecent {
		h.add(status.Event{Text: fmt.Sprint(i)})
	}
	events, missed := h.since(10)
	if len(events) != maxRecent || missed != 2*maxRecent-10 || events[0].Text != fmt.Sprint(2*maxRecent) {
		t.Errorf("%d events from %q, %d missed", len(events), events[0].Text, missed)
	}
	if events, missed := h.since(h.total); len(events) != 0 || missed != 0 {
		t.Errorf("at the end: %d events, %d missed", len(events), missed)
	}
}

// The supervisor ends although a follower does not read.
func TestStuckReaderDoesNotHoldTheSupervisor(t *testing.T) {
	r := startCard(t, newScene(), storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	conn, err := net.Dial("unix", r.c.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /events?follow=1 HTTP/1.1\r\nHost: supervisor\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 64<<10)
	for range 64 { // more than a socket's buffer holds
		r.s.board.event("%s", long)
	}
	r.stop()
	_ = r.wait()
}
