package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// running is a toe command that runs.
type running struct {
	process *os.Process
	state   func() int // exit status, after Wait
	ended   chan struct{}
	mu      sync.Mutex // guards what it has written so far
	out     bytes.Buffer
	said    bytes.Buffer
}

type half struct {
	r *running
	b *bytes.Buffer
}

func (w half) Write(b []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.b.Write(b)
}

func (r *running) text() (out, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String(), r.said.String()
}

// begin starts toe, and kills it at the end of the test.
func (h *host) begin(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.command(ctx, args...)
	r := &running{ended: make(chan struct{}), state: func() int { return cmd.ProcessState.ExitCode() }}
	cmd.Stdout, cmd.Stderr = half{r, &r.out}, half{r, &r.said}
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	r.process = cmd.Process
	go func() { _ = cmd.Wait(); close(r.ended) }()
	t.Cleanup(func() { cancel(); <-r.ended })
	return r
}

// wait returns the exit status.
func (r *running) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(limit):
		out, said := r.text()
		t.Fatalf("still running after %v: %s%s", limit, out, said)
	}
	return r.state()
}

// written waits until the card has written so many bytes more to its flash.
func (f *flashJourney) written(t *testing.T, more int64) {
	t.Helper()
	begun := int64(-1)
	f.await(t, "card0", f.kind.start, "writes to the flash", func(st status.Status) error {
		now := int64(st.Disks[0].WrittenBytes)
		if begun < 0 {
			begun = now
		}
		if now < begun+more {
			return fmt.Errorf("%d bytes more", now-begun)
		}
		return nil
	})
}

// interrupted presses Ctrl-C while a slot is written. The same command again finishes at once: see
// update.
func (f *flashJourney) interrupted(t *testing.T) {
	r := f.begin(t, "firmware", "install", "card0", f.bundle)
	f.written(t, 40<<20)
	_ = r.process.Signal(syscall.SIGINT)
	status := r.wait(t, quick)
	_, said := r.text()
	if status != 130 || !strings.Contains(said, "interrupted") {
		t.Errorf("exit status %d: %s", status, said)
	}
	began := time.Now()
	until(t, f.kind.start, "RAUC to be idle", func() error {
		time.Sleep(200 * time.Millisecond)
		out := f.onCard(t, "busctl get-property de.pengutronix.rauc / de.pengutronix.rauc.Installer Operation; ls /sys/class/block/nbd0; true")
		if !strings.Contains(out, `"idle"`) || strings.Contains(out, "pid") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	t.Logf("RAUC was idle %.1f s later", time.Since(began).Seconds())
	if out := f.onCard(t, "mount"); strings.Contains(out, "rauc-verity-bundle") {
		t.Errorf("the bundle is still mounted: %s", out)
	}
	f.onSlot(t, "A", false)
}

// flaky serves a file with ranges, and breaks off in the middle of some answers.
type flaky struct {
	path   string
	asked  atomic.Int64
	breaks atomic.Int64
}

func (s *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n := s.asked.Add(1); n%40 == 39 {
		s.breaks.Add(1)
		w = &short{w, 1000}
	}
	http.ServeFile(w, r, s.path)
}

// short takes so many bytes of an answer.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(b []byte) (int, error) {
	if len(b) > s.left {
		_, _ = s.ResponseWriter.Write(b[:s.left])
		panic(http.ErrAbortHandler) // closes the connection
	}
	s.left -= len(b)
	return s.ResponseWriter.Write(b)
}

// chatter sends a datagram to the world every 10 ms until the returned function is called.
func (f *flashJourney) chatter(t *testing.T) (quiet func()) {
	t.Helper()
	c, err := dialIn(f.netns, "udp", net.JoinHostPort(worldAddr, "7"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		defer c.Close()
		for tick := time.Tick(10 * time.Millisecond); ctx.Err() == nil; <-tick {
			_, _ = c.Write([]byte("chatter"))
		}
	}()
	return cancel
}

// older installs a bundle of an earlier version from a server that breaks off, and restarts the card
// when its link is quiet.
func (f *flashJourney) older(t *testing.T) {
	older := filepath.Join(f.dir, "older.raucb")
	f.makeBundle(t, older, "1.9.9")
	r := f.run(t, f.kind.start, 1, "firmware", "install", "card0", older)
	if !strings.Contains(r.err, "the bundle has version 1.9.9, this card runs 2.0.0") || !strings.Contains(r.err, "--allow-downgrade") ||
		!strings.Contains(r.err, "nothing was changed") {
		t.Errorf("an older version: %s", r.err)
	}
	f.seen = len(f.history(t))

	server := &flaky{path: older}
	l := f.world.listen(t, ":8080")
	web := &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = web.Serve(l) }()
	t.Cleanup(func() { web.Close() })
	before := f.status(t, "card0")
	quiet := f.chatter(t)
	run := f.begin(t, "firmware", "install", "card0", "http://"+worldAddr+":8080/older.raucb", "--allow-downgrade", "--when-idle", "--json")
	until(t, 3*f.kind.start, "the wait for a quiet moment", func() error {
		_, said := run.text()
		select {
		case <-run.ended:
			t.Fatalf("exit status %d: %s", run.state(), said)
		default:
		}
		if !strings.Contains(said, "waiting for a quiet moment") {
			return errors.New(said)
		}
		return nil
	})
	time.Sleep(6 * time.Second) // twice as long as the link has to be quiet
	if now := f.status(t, "card0"); now.Machine.PID != before.Machine.PID {
		t.Error("the card was restarted with traffic on the link")
	}
	quiet()
	if status := run.wait(t, 3*f.kind.start); status != 0 {
		_, said := run.text()
		t.Fatalf("exit status %d: %s", status, said)
	}
	out, _ := run.text()
	var got struct {
		Slot    string  `json:"slot"`
		Started bool    `json:"started"`
		Outage  float64 `json:"outage_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Slot != "A" || !got.Started {
		t.Errorf("install: %v: %s", err, out)
	}
	t.Logf("%d requests, %d broken off; no answer for %.2f s", server.asked.Load(), server.breaks.Load(), got.Outage)
	if server.breaks.Load() == 0 {
		t.Error("the server did not break off")
	}
	f.next(t, "installed", quick)
	f.onSlot(t, "A", false) // at once: its content is the one that was found healthy before
	if out := f.onCard(t, "rauc status --detailed"); !strings.Contains(out, "1.9.9") {
		t.Errorf("rauc status: %s", out)
	}
}

// TestFlashUser: a user without root makes a bundle and installs it.
func TestFlashUser(t *testing.T) {
	if os.Getenv("TOE_E2E_FULL") == "" {
		t.Skip("takes a minute: test/run full")
	}
	needDebian(t)
	f := &flashJourney{journey: &journey{host: newUserHost(t), kind: kind{name: "uml", start: debianStart["uml"]}}}
	f.makeKeys(t)
	file := f.spec(t, "card.yaml", "machine: {kind: uml}\nfirmware: {edition: debian, flash: 2GiB, health_limit: 900}\n")
	f.run(t, f.kind.start, 0, "up", "-f", file)
	f.trust(t)
	r := f.run(t, 5*f.kind.start, 0, "firmware", "install", "card0", f.bundle)
	if !strings.Contains(r.out, "card0 runs slot B") {
		t.Errorf("install: %s", r)
	}
	f.onSlot(t, "B", false)
	f.get(t, "card0")
	f.run(t, time.Minute, 0, "down")
}
