package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// serviceSystem is the part of the card's Debian that services need. Tests have another root and
// another run.
type serviceSystem struct {
	dir   string // control.ServicesDir
	units string // units of systemd, in memory
	ready func() bool
	// run runs a program and returns what it says on both outputs. The error is short.
	run func(ctx context.Context, limit time.Duration, words ...string) (string, error)
	// users returns the users of a port, none where it is free; the agent itself does not count.
	users func(ctx context.Context, p control.ServicePort) []string
	// listens reports whether a socket of the card has the port.
	listens   func(p control.ServicePort) bool
	installed string // file with the packages that were installed here, and not with the image
	// policy, while it is there, keeps Debian's packages from starting their programs before those
	// have their configuration (invoke-rc.d(8)).
	policy string
	pause  time.Duration
}

// Limits of what is waited for. On User-Mode Linux on a host with a load of 35 on two CPUs, dpkg-query
// and a checker took more than 30 s beside the start of a card.
const (
	commandLimit = 90 * time.Second // a checker, or systemd
	startLimit   = 30 * time.Second // a service, until it answers
	aptLimit     = 5 * time.Minute
)

// digestFile, in a service's folder, tells what is in force, also to an agent that was started anew.
const digestFile = ".digest"

func serviceDigest(s control.Service) string {
	data, _ := json.Marshal(s) // strings and numbers
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// accept does what put does without changing anything: it looks whether the ports are free, and has
// the program check the files. A program that is not installed yet cannot.
func (y *serviceSystem) accept(ctx context.Context, want control.Service, old *control.Service, freed map[string]bool) error {
	if err := y.free(ctx, want, old, freed); err != nil {
		return err
	}
	if _, missing, err := y.packages(ctx, want); err != nil || len(missing) > 0 {
		return err
	}
	defer os.RemoveAll(y.staged(want))
	return y.check(ctx, want)
}

// free looks whether another program has a port that the service has not had before.
func (y *serviceSystem) free(ctx context.Context, want control.Service, old *control.Service, freed map[string]bool) error {
	if old == nil {
		if u, err := y.show(ctx, []string{want.Unit}); err == nil && u[want.Unit].active == "active" {
			return nil // it may be the program itself that has it
		}
	}
	for _, p := range want.Ports {
		if freed[p.String()] || old != nil && hasPort(*old, p) {
			continue
		}
		if users := y.users(ctx, p); len(users) > 0 {
			return fmt.Errorf("%s is in use by %s", p, strings.Join(users, ", "))
		}
	}
	return nil
}

func hasPort(s control.Service, p control.ServicePort) bool {
	return slices.ContainsFunc(s.Ports, func(q control.ServicePort) bool { return q.String() == p.String() })
}

func (y *serviceSystem) folder(s control.Service) string { return filepath.Join(y.dir, s.Name) }
func (y *serviceSystem) staged(s control.Service) string { return filepath.Join(y.dir, s.Name+".new") }

// check writes the files beside those in force, and runs the service's checker. The checker sees them
// in their final place, in a mount namespace of its own; the running program does not.
func (y *serviceSystem) check(ctx context.Context, want control.Service) error {
	if err := y.stage(want); err != nil {
		return err
	}
	if len(want.Check) == 0 {
		return nil
	}
	const script = `mount --bind "$0" "$1" && shift && exec "$@"`
	words := append([]string{"unshare", "-m", "sh", "-c", script, y.staged(want), y.folder(want)}, want.Check...)
	out, err := y.run(ctx, commandLimit, words...)
	if err != nil {
		return fmt.Errorf("%s does not accept it: %w%s", filepath.Base(want.Check[0]), err, programSaid(want, out))
	}
	return nil
}

// stage writes the files of a service into a folder beside its own.
func (y *serviceSystem) stage(want control.Service) error {
	at := y.staged(want)
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(y.folder(want), 0o755), os.MkdirAll(at, 0o755)); err != nil {
		return err
	}
	for _, f := range want.Files {
		mode := fs.FileMode(0o644)
		if f.Secret {
			mode = 0o600
		}
		path := filepath.Join(at, f.Name)
		if err := os.WriteFile(path, []byte(f.Text), mode); err != nil {
			return err
		}
		if f.Owner == "" {
			continue
		}
		if err := chown(path, f.Owner); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(at, digestFile), []byte(serviceDigest(want)), 0o600)
}

func chown(path, owner string) error {
	u, err := user.Lookup(owner)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, -1)
}

// put puts a service into force in the place of old, and waits until it works. It returns what its
// packages are.
func (y *serviceSystem) put(ctx context.Context, want control.Service, old *control.Service) (string, error) {
	packages, err := y.install(ctx, want)
	if err != nil {
		return "", err
	}
	if y.inForce(ctx, want) {
		return packages, nil
	}
	if err := y.check(ctx, want); err != nil {
		return "", err
	}
	// In one step: a program that starts at this moment sees the old files or the new ones.
	if err := unix.Renameat2(unix.AT_FDCWD, y.staged(want), unix.AT_FDCWD, y.folder(want), unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("replacing %s: %w", y.folder(want), err)
	}
	if err := os.RemoveAll(y.staged(want)); err != nil {
		return "", err
	}
	anew, err := y.writeUnit(ctx, want, old)
	if err != nil {
		return "", err
	}
	return packages, y.begin(ctx, want, old == nil || anew)
}

// inForce reports whether the service runs with these very files: the agent was started anew.
func (y *serviceSystem) inForce(ctx context.Context, want control.Service) bool {
	has, err := os.ReadFile(filepath.Join(y.folder(want), digestFile))
	if err != nil || string(has) != serviceDigest(want) {
		return false
	}
	u, err := y.show(ctx, []string{want.Unit})
	return err == nil && u[want.Unit].active == "active"
}

// again makes systemd start a program again, however often it ends, after a growing pause. A unit of
// the service's own says itself what it wants.
const again = `# Made by the toe agent.
[Unit]
StartLimitIntervalSec=0
[Service]
Restart=always
RestartSec=500ms
RestartSteps=6
RestartMaxDelaySec=30s
`

// unitFiles are the files that a service has of systemd's, by path.
func (y *serviceSystem) unitFiles(s control.Service) map[string]string {
	out, own := map[string]string{}, false
	dropIns := filepath.Join(y.units, s.Unit+".d")
	for _, f := range s.Files {
		switch f.Name {
		case s.Unit:
			out[filepath.Join(y.units, s.Unit)], own = f.Text, true
		case control.UnitDropIn:
			out[filepath.Join(dropIns, "60-toe.conf")] = f.Text
		}
	}
	if !own {
		out[filepath.Join(dropIns, "50-toe.conf")] = again
	}
	return out
}

// writeUnit tells systemd of the service's unit, and reports whether that differs from before. What old
// had and s has not is taken away.
func (y *serviceSystem) writeUnit(ctx context.Context, s control.Service, old *control.Service) (changed bool, err error) {
	files := y.unitFiles(s)
	if old != nil {
		if old.Unit != s.Unit {
			if _, err := y.run(ctx, startLimit, "systemctl", "stop", old.Unit); err != nil {
				return false, fmt.Errorf("systemctl stop %s: %w", old.Unit, err)
			}
		}
		for path := range y.unitFiles(*old) {
			if _, stays := files[path]; stays {
				continue
			}
			changed = true
			if err := gone(os.Remove(path)); err != nil {
				return changed, err
			}
		}
	}
	for path, text := range files {
		if has, err := os.ReadFile(path); err == nil && string(has) == text {
			continue
		}
		changed = true
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return changed, err
		}
		if err := writeSynced(path, text); err != nil {
			return changed, err
		}
	}
	if changed {
		_, err = y.run(ctx, commandLimit, "systemctl", "daemon-reload")
	}
	return changed, err
}

// begin starts the program, or has it read its files again, and waits until it works.
func (y *serviceSystem) begin(ctx context.Context, s control.Service, anew bool) error {
	before, err := y.show(ctx, []string{s.Unit})
	if err != nil {
		return err
	}
	words := s.Reload
	if anew || len(words) == 0 || before[s.Unit].active != "active" {
		words = []string{"systemctl", "restart", s.Unit}
	}
	if out, err := y.run(ctx, startLimit, words...); err != nil {
		return fmt.Errorf("%s: %w%s", strings.Join(words, " "), err, y.why(ctx, s, out))
	}
	return y.await(ctx, s, before[s.Unit].restarts)
}

// await waits until the unit is active, has its ports, and its probe succeeds.
func (y *serviceSystem) await(ctx context.Context, s control.Service, restarts int) error {
	until := time.Now().Add(startLimit)
	for {
		u, err := y.show(ctx, []string{s.Unit})
		lacks := y.lacks(ctx, s, u[s.Unit], err)
		now := u[s.Unit]
		switch {
		case lacks == "":
			return nil
		case err == nil && (now.active == "failed" || now.restarts > restarts):
			return fmt.Errorf("%s ended (%s)%s", s.Unit, now.ended, y.why(ctx, s, ""))
		case ctx.Err() != nil || time.Now().After(until):
			return fmt.Errorf("does not work after %v: %s%s", startLimit, lacks, y.why(ctx, s, ""))
		}
		sleep(ctx, y.pause)
	}
}

// lacks says what is missing until the service works.
func (y *serviceSystem) lacks(ctx context.Context, s control.Service, u unitState, err error) string {
	if err != nil {
		return err.Error()
	}
	if u.active != "active" {
		return fmt.Sprintf("%s is %s", s.Unit, u.active)
	}
	for _, p := range s.Ports {
		if !y.listens(p) {
			return "nothing listens on " + p.String()
		}
	}
	if len(s.Probe) > 0 {
		if out, err := y.run(ctx, commandLimit, s.Probe...); err != nil {
			return fmt.Sprintf("%s: %v%s", strings.Join(s.Probe, " "), err, programSaid(s, out))
		}
	}
	return ""
}

// why is the end of the unit's log.
func (y *serviceSystem) why(ctx context.Context, s control.Service, out string) string {
	if text, err := y.run(ctx, commandLimit, "journalctl", "-q", "-u", s.Unit, "-n", "5", "-o", "cat", "--no-pager"); err == nil {
		out = text
	}
	return programSaid(s, out)
}

// remove stops a service, and takes away what it has.
func (y *serviceSystem) remove(ctx context.Context, old control.Service) error {
	_, err := y.run(ctx, startLimit, "systemctl", "stop", old.Unit)
	for path := range y.unitFiles(old) {
		err = errors.Join(err, gone(os.Remove(path)))
	}
	_ = os.Remove(filepath.Join(y.units, old.Unit+".d")) // an administrator may have a file there
	err = errors.Join(err, os.RemoveAll(y.staged(old)), os.RemoveAll(y.folder(old)))
	_, reload := y.run(ctx, commandLimit, "systemctl", "daemon-reload")
	return errors.Join(err, reload)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// saidLimit bounds what is repeated of a program's words, in bytes.
const saidLimit = 600

// programSaid is the end of what a program said, without secrets.
func programSaid(s control.Service, out string) string {
	for _, h := range s.Hide {
		out = strings.ReplaceAll(out, h, "********")
	}
	var lines []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "; ")
	if len(text) > saidLimit {
		text = "…" + strings.ToValidUTF8(text[len(text)-saidLimit:], "")
	}
	if text == "" {
		return ""
	}
	return ": " + text
}
