package passt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/child"
	"github.com/toe-project/toe/internal/sandbox"
)

// Verb is the hidden verb of the program that becomes a self-test of passt, in
// namespaces of its own. It takes the command of the passt, and prints its
// verdict as JSON.
const Verb = "passt-selftest"

// probeLimit bounds a self-test. A good passt passes in 2 s.
const probeLimit = 40 * time.Second

// probeVersion changes with the cases of the self-test.
const probeVersion = 1

// verdict is what a self-test found.
type verdict struct {
	Key    string `json:"key,omitempty"` // what it holds for
	Fault  string `json:"fault,omitempty"`
	Faulty bool   `json:"faulty,omitempty"` // the fault is the program's
}

func (v verdict) err() error {
	switch {
	case v.Faulty:
		return faultyError{v.Fault}
	case v.Fault != "":
		return errors.New(v.Fault)
	}
	return nil
}

// faultyError is an ErrFaulty with its text as it came from another process.
type faultyError struct{ text string }

func (e faultyError) Error() string        { return e.text }
func (e faultyError) Is(target error) bool { return target == ErrFaulty }

// Probe returns nil for a program that passes the self-test, and ErrFaulty for
// one that does not. Another error says why it could not be tested. The verdict
// is kept in the cache until the program changes or the host is started again.
func Probe(ctx context.Context, cache string, p Program) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	var v verdict
	if atomicfile.ReadJSON(p.verdictPath(cache), &v) == nil && v.Key == key {
		return v.err()
	}
	if v, err = inNamespaces(ctx, p); err != nil {
		return err
	}
	if v.Fault == "" || v.Faulty {
		_ = keep(cache, p, v) // only costs time when it fails
	}
	return v.err()
}

// keep keeps the verdict on a program as it is now.
func keep(cache string, p Program, v verdict) (err error) {
	if v.Key, err = p.key(); err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	return atomicfile.WriteJSON(p.verdictPath(cache), v)
}

func (p Program) verdictPath(cache string) string {
	sum := sha256.Sum256([]byte(strings.Join(p.Argv, "\x00")))
	return filepath.Join(cache, "probe-passt-"+hex.EncodeToString(sum[:4])+".json")
}

// key changes when a self-test may find something else.
func (p Program) key() (string, error) {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	parts := []string{fmt.Sprint(probeVersion), strings.TrimSpace(string(boot)), fmt.Sprint(os.Geteuid())}
	for _, path := range p.Argv {
		if !filepath.IsAbs(path) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		parts = append(parts, fmt.Sprintf("%s %d %d %d.%09d", path, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec))
	}
	return strings.Join(parts, "; "), nil
}

// inNamespaces runs the self-test in a process of its own.
func inNamespaces(ctx context.Context, p Program) (v verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{Verb, "--"}, p.Argv...)...)
	cmd.Args[0] = "toe"
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = processAttr()
	if err = child.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &v)
	}
	if err != nil {
		return v, fmt.Errorf("self-test of %s: %w %s", p.Path(), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return v, nil
}

// processAttr puts the self-test into namespaces of its own. Without root it
// keeps what it needs there as ambient capabilities.
func processAttr() *syscall.SysProcAttr {
	if os.Geteuid() == 0 {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	uid, gid := os.Geteuid(), os.Getegid()
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN},
	}
}

// Main is the process of a self-test of the passt with the command argv.
func Main(argv []string) error {
	sandbox.SetName("toe: passt?")
	if err := sandbox.CloseInherited(); err != nil {
		return err
	}
	var v verdict
	if err := selfTest(context.Background(), Program{Argv: argv}); err != nil {
		v = verdict{Fault: err.Error(), Faulty: errors.Is(err, ErrFaulty) || errors.Is(err, errSpins)}
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}
