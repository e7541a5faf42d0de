package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

// tellOfStart is a supervisor's socket that says this and that of a start, and
// hangs up then.
func tellOfStart(t *testing.T, c *store.Card, said []status.Status) {
	t.Helper()
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if len(said) == 0 {
			panic(http.ErrAbortHandler)
		}
		_ = cli.JSON(w, said[0])
		if said = said[1:]; len(said) == 0 {
			_ = l.Close()
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// TestFailedStageIsNamed: the stage at which a start fails is said to have
// failed, not the taking down that follows.
func TestFailedStageIsNamed(t *testing.T) {
	ownFolders(t)
	dirs, err := store.DefaultDirs()
	if err != nil {
		t.Fatal(err)
	}
	c, err := dirs.Create(spec.Default("edge"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tellOfStart(t, c, []status.Status{
		{State: status.Starting, Stage: "choosing a machine", Sequence: 1},
		{State: status.Starting, Stage: "checking where the ports lead", Sequence: 2},
		{State: status.Stopped, Stage: "taking down", Sequence: 3},
	})
	last := `{"state":"failed","reasons":["checking where the ports lead: port wan: there is no interface nosuch"]}`
	if err := os.WriteFile(c.Paths.Last(), []byte(last), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	_, err = await(context.Background(), c, progress.New(&shown), nil, status.Status{})
	if err == nil || !strings.Contains(err.Error(), "card edge did not start\n  checking where the ports lead: port wan") {
		t.Errorf("%v", err)
	}
	if text := shown.String(); !strings.Contains(text, "checking where the ports lead: failed: ") || strings.Contains(text, "taking down") {
		t.Errorf("shown:\n%s", text)
	}
}
