package apt_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/apt"
)

// hold takes a lock as apt does (fcntl, F_WRLCK) and returns what releases it.
func hold(t *testing.T, path string) (release func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatalf("lock %s: %v", path, err)
	}
	return func() { f.Close() }
}

// TestAptGetWaits: packaging/apt-get, which make and test/run install packages with, waits for each
// lock that another apt or dpkg holds. apt-get alone waits for that of dpkg only, if asked to.
func TestAptGetWaits(t *testing.T) {
	script, err := filepath.Abs("../../packaging/apt-get")
	if err != nil {
		t.Fatal(err)
	}
	for _, lock := range []string{"state/lock-frontend", "state/lock", "lists/lock", "archives/lock"} {
		t.Run(lock, func(t *testing.T) {
			t.Parallel()
			r, _ := repo(t)
			dir := t.TempDir()
			if _, err := apt.Open(context.Background(), apt.Options{
				Dir: dir, Arch: "amd64", Suites: []string{"trixie"}, Mirror: r.URI, Keyring: r.Keyring,
			}); err != nil {
				t.Fatal(err)
			}
			command := func(limit, name string) *exec.Cmd {
				cmd := exec.Command(name, "-q", "update")
				cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"), "TOE_APT_WAIT="+limit)
				return cmd
			}
			release := hold(t, filepath.Join(dir, lock))
			if lock == "lists/lock" {
				if out, err := command("", "apt-get").CombinedOutput(); err == nil {
					t.Errorf("apt-get alone does not mind the lock:\n%s", out)
				}
			}
			if out, err := command("1", script).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("gave up waiting for "+filepath.Join(dir, lock))) {
				t.Errorf("with a limit of 1 s: %v\n%s", err, out)
			}
			began := time.Now()
			timer := time.AfterFunc(1500*time.Millisecond, release)
			defer timer.Stop()
			out, err := command("60", script).CombinedOutput()
			if err != nil || time.Since(began) < 1500*time.Millisecond {
				t.Errorf("%v after %s; want success after the lock is released\n%s", err, time.Since(began), out)
			}
			if want := "waiting for " + filepath.Join(dir, lock) + ", held by process "; !strings.Contains(string(out), want) {
				t.Errorf("it does not say %q:\n%s", want, out)
			}
		})
	}
}

// TestRootIsShared: several processes fetch with one root at once, such as two benchmarks.
func TestRootIsShared(t *testing.T) {
	r, _ := repo(t)
	dir := t.TempDir()
	errs := make(chan error)
	const n = 4
	for range n {
		go func() {
			errs <- func() error {
				ctx := context.Background()
				root, err := apt.Open(ctx, apt.Options{Dir: dir, Arch: "amd64", Suites: []string{"trixie"}, Mirror: r.URI, Keyring: r.Keyring})
				if err != nil {
					return err
				}
				if err := root.Update(ctx); err != nil {
					return err
				}
				p, err := root.Candidate(ctx, "toe-test")
				if err != nil {
					return err
				}
				return root.Fetch(ctx, p, func(int64) {})
			}()
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
