package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// host looks like a separate machine to toe: a network namespace, and folders for its cards.
// Nothing of it outlives the test.
type host struct {
	netns string
	dir   string // short, because of the sockets in it
	toe   string // the program
	user  *syscall.Credential
	cache string          // firmware
	tun   string          // a node for /dev/net/tun, where there is a user
	seen  map[int]process // every process of toe that was seen
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for its network namespaces")
	}
	dir, err := os.MkdirTemp("/tmp", mine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{netns: filepath.Base(dir), dir: dir, toe: toe, cache: cache, seen: map[int]process{}}
	addNetns(t, h.netns)
	t.Cleanup(func() { h.end(t) })
	return h
}

func (h *host) runtime(name string) string { return filepath.Join(h.dir, "run", name) }

// openTUN replaces a device node that only root may open, as in a container, by one that all users
// may open, as on Debian. ip-netns(8) runs it in a mount namespace of its own.
const openTUN = `mount --bind "$0" /dev/net/tun && exec "$@"`

// command returns a toe command on this host. The environment marks its processes.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := []string{"netns", "exec", h.netns}
	if h.user != nil {
		id := strconv.Itoa(int(h.user.Uid))
		argv = append(argv, "sh", "-c", openTUN, h.tun, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--inh-caps=-all", "--")
	}
	cmd := exec.CommandContext(ctx, "ip", append(append(argv, h.toe), args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "TERM=dumb",
		"TOE_STATE_DIR=" + filepath.Join(h.dir, "state"), "TOE_RUNTIME_DIR=" + filepath.Join(h.dir, "run"), "TOE_CACHE_DIR=" + h.cache,
	}
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// result is the outcome of a command.
type result struct {
	status   int
	out, err string
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d after %s\nstdout: %s\nstderr: %s", r.status, r.took.Round(time.Millisecond), r.out, r.err)
}

// try runs toe for at most limit.
func (h *host) try(limit time.Duration, env []string, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := h.command(ctx, args...)
	cmd.Env = append(cmd.Env, env...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	began := time.Now()
	err := cmd.Run()
	r := result{cmd.ProcessState.ExitCode(), out.String(), complaint.String(), time.Since(began)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("toe %s: still running after %s; %s", strings.Join(args, " "), limit, r)
	case err != nil && !errors.As(err, &exit):
		return r, err
	}
	return r, nil
}

// run is like try, and fails the test on any exit status but want.
func (h *host) run(t testing.TB, limit time.Duration, want int, args ...string) result {
	t.Helper()
	return h.runEnv(t, limit, nil, want, args...)
}

func (h *host) runEnv(t testing.TB, limit time.Duration, env []string, want int, args ...string) result {
	t.Helper()
	r, err := h.try(limit, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	if r.status != want {
		t.Fatalf("toe %s: want exit status %d: %s", strings.Join(args, " "), want, r)
	}
	return r
}

// spec writes a card.yaml and returns its path.
func (h *host) spec(t testing.TB, file, text string) string {
	t.Helper()
	path := filepath.Join(h.dir, file)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (h *host) status(t testing.TB, name string) status.Status {
	t.Helper()
	var st status.Status
	r := h.run(t, 10*time.Second, 0, "status", name, "--json")
	if err := json.Unmarshal([]byte(r.out), &st); err != nil {
		t.Fatalf("status --json: %v: %s", err, r.out)
	}
	h.note(st)
	return st
}

// note records the processes of a card, for gone.
func (h *host) note(st status.Status) {
	if st.Supervisor.PID != 0 {
		maps.Copy(h.seen, descendants(st.Supervisor.PID))
	}
}

// alive returns the recorded processes that still run.
func (h *host) alive() []process {
	var left []process
	for _, p := range h.seen {
		if p.alive() {
			left = append(left, p)
		}
	}
	return left
}

// gone waits until none of the recorded processes is left.
func (h *host) gone(t testing.TB, limit time.Duration) {
	t.Helper()
	until(t, limit, "the end of the card's processes", func() error {
		if left := h.alive(); len(left) > 0 {
			return fmt.Errorf("process %d (%s) and %d more run", left[0].pid, left[0].command(), len(left)-1)
		}
		return nil
	})
}

// until tries f every few milliseconds until it succeeds.
func until(t testing.TB, limit time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := f()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("waited %s for %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// await polls the status until check returns no error.
func (h *host) await(t testing.TB, name string, limit time.Duration, what string, check func(status.Status) error) status.Status {
	t.Helper()
	var st status.Status
	until(t, limit, what, func() error {
		st = h.status(t, name)
		return check(st)
	})
	return st
}

// end logs what is known of a failed test's cards, and kills what runs.
func (h *host) end(t *testing.T) {
	cards, _ := filepath.Glob(filepath.Join(h.dir, "state", "*", "card.yaml"))
	for _, path := range cards {
		name := filepath.Base(filepath.Dir(path))
		if t.Failed() {
			h.show(t, name)
		}
		if _, err := h.try(40*time.Second, nil, "down", name); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
	// Processes take longer to end on a busy machine.
	for limit := time.Now().Add(5 * time.Second); len(h.alive()) > 0 && time.Now().Before(limit); {
		time.Sleep(20 * time.Millisecond)
	}
	for _, p := range h.alive() {
		t.Errorf("clean up: process %d (%s) had to be killed", p.pid, p.command())
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

func (h *host) show(t *testing.T, name string) {
	if r, err := h.try(10*time.Second, nil, "status", name); err == nil {
		t.Logf("status of %s: %s", name, r)
	}
	for _, file := range []string{"console.log", "supervisor.log"} {
		if text, err := os.ReadFile(filepath.Join(h.runtime(name), file)); err == nil {
			t.Logf("end of %s of %s:\n%s", file, name, text[max(len(text)-4096, 0):])
		}
	}
}
