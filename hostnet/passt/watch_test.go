package passt

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/fds"
)

func TestSpin(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		looks []work
		spins bool
	}{
		"idle":                  {[]work{{0, 1, 0}, {0, 1, 0}, {9 * s, 1, 0}}, false},
		"reads what comes":      {[]work{{0, 1, 10}, {s, 1, 9}, {2 * s, 1, 20}, {5 * s, 1, 0}, {6 * s, 1, 5}}, false},
		"sleeps at times":       {[]work{{0, 1, 10}, {s, 2, 10}, {4 * s, 3, 10}, {6 * s, 4, 11}}, false},
		"gets no CPU":           {[]work{{0, 1, 10}, {s, 1, 10}, {s, 1, 20}, {s, 1, 30}}, false},
		"spins":                 {[]work{{0, 1, 0}, {s, 1, 10}, {2 * s, 1, 10}, {2 * s, 1, 20}, {3 * s, 1, 20}}, true},
		"spins after some work": {[]work{{0, 1, 9}, {s, 1, 3}, {2 * s, 1, 4}, {4 * s, 1, 5}}, true},
	} {
		var w spin
		got := false
		for _, l := range c.looks {
			got = w.look(l)
		}
		if got != c.spins {
			t.Errorf("%s: %v, want %v", name, got, c.spins)
		}
	}
}

// fakePasst is a program in the place of passt, with its end of the socket as
// descriptor 3.
func fakePasst(t *testing.T, script string) (*Passt, *os.File) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "passt")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &Passt{Options: Options{Program: Program{Argv: []string{program}}, Name: "wan", MTU: 1500, Logf: t.Logf}, quit: make(chan struct{}),
		Renewed: make(chan Renewal), Died: make(chan error, 1)}
	ours, err := r.pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fds.CloseAll([]*os.File{ours, r.theirs, r.gauge}) })
	return r, ours
}

// A passt that spins while frames wait for it is ended, and says so.
func TestPasstThatSpins(t *testing.T) {
	r, ours := fakePasst(t, "while :; do :; done")
	if _, err := ours.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.run("nowhere0", "") }()
	select {
	case err := <-done:
		if !errors.Is(err, errSpins) {
			t.Errorf("it ended with %v, want %v", err, errSpins)
		}
	case <-time.After(time.Minute):
		close(r.quit)
		t.Errorf("it spins: %v", <-done)
	}
}

// One that ends makes way for another, with another socket.
func TestPasstThatEnds(t *testing.T) {
	r, ours := fakePasst(t, "echo no more >&2; exit 3")
	why := r.run("nowhere0", "")
	if why == nil {
		t.Fatal("its end is not told")
	}
	got := make(chan Renewal, 1)
	go func() { got <- <-r.Renewed }()
	if !r.again(why, 0) {
		t.Fatal("want no other")
	}
	n := <-got
	defer n.File.Close()
	if n.Why != why {
		t.Errorf("told as %v, want %v", n.Why, why)
	}
	if n.File.Fd() == ours.Fd() {
		t.Error("it is the same socket")
	}
}
