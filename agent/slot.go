package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/internal/tail"

	"github.com/toe-project/toe/control"
)

// slotPart is the card's side of its flash. On a slot on trial it makes the health checks, and marks
// the slot good in the boot environment when all pass. It needs no host for that: a board with U-Boot
// does the same. The host sees the mark, and what the status says.
type slotPart struct {
	idle
	*env
	slot   flash.Slot
	digest string // of the slot's content
	open   func() (bootEnv, error)
	checks string // folder of the administrator's checks
	before string // file with what was degraded under a good slot
	flag   string // file that exists while the slot is on trial: rauc-check refuses then
	// isEnding reports whether the card is being taken down, and not the agent alone.
	isEnding func() bool
	pace     time.Duration // between two rounds of checks
	// rememberPace is the time between two looks at what is degraded.
	rememberPace time.Duration

	mu      sync.Mutex // guards what follows
	trial   bool
	started flash.Env // at the start of this life
	state   reason
}

// bootEnv is the partition with the boot environment, open.
type bootEnv interface {
	flash.Storage
	Close() error
}

const (
	slotComponent = "slot"
	slotArg       = "rauc.slot=" // of the kernel's command line
	checksDir     = dataDir + "/health.d"
	// dataFault, in runDir, says why the card runs without its data.
	dataFault = "data-fault"

	checkLimit   = 30 * time.Second // for one of the administrator's checks
	maxOutput    = 2 << 10          // bytes of a check's output that are kept
	verdictLimit = 20 * time.Second // for the host to see a verdict, before the card restarts itself
)

func newSlotPart(e *env, cmdline string) *slotPart {
	s := &slotPart{
		env: e, digest: e.opts.Image, open: openBootEnv, checks: checksDir, before: degradedFile, flag: filepath.Join(runDir, "trial"),
		isEnding: isEnding, pace: time.Second, rememberPace: rememberEvery,
	}
	s.slot = slotOf(cmdline)
	s.state = reason{component: slotComponent, state: healthy, detail: "slot " + string(s.slot)}
	return s
}

// slotOf returns the slot that the kernel's command line names, or "".
func slotOf(cmdline string) (slot flash.Slot) {
	for word := range strings.FieldsSeq(cmdline) {
		if name, ok := strings.CutPrefix(word, slotArg); ok && (flash.Slot(name) == flash.A || flash.Slot(name) == flash.B) {
			slot = flash.Slot(name)
		}
	}
	return slot
}

// envLock is the lock of fw_setenv and fw_printenv (libubootenv), which call it /var/lock/….
const envLock = "/run/lock/fw_printenv.lock"

// lockedEnv is the partition, locked against libubootenv.
type lockedEnv struct {
	*os.File
	lock *os.File
}

func (l lockedEnv) Close() error { return errors.Join(l.File.Close(), l.lock.Close()) }

func openBootEnv() (bootEnv, error) {
	device, err := findDisk("/sys/class/block", partLabel+flash.EnvName)
	if err != nil || device == "" {
		return nil, fmt.Errorf("boot environment: no partition %s: %w", flash.EnvName, err)
	}
	_ = os.MkdirAll(filepath.Dir(envLock), 0o755)
	lock, err := os.OpenFile(envLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lockedEnv{f, lock}, nil
}

// change changes the boot environment as f says.
func (s *slotPart) change(f func(now flash.Env) flash.Env) (flash.Env, error) {
	return changeEnv(s.open, f)
}

// changeEnv changes the boot environment as f says, and returns what it is then.
func changeEnv(open func() (bootEnv, error), f func(now flash.Env) flash.Env) (flash.Env, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	now, err := flash.ReadEnv(p)
	if err != nil {
		return nil, err
	}
	next := now.With(f(now))
	return next, flash.WriteEnv(p, next)
}

func (s *slotPart) start(ctx context.Context) {
	if s.slot == "" {
		return
	}
	now, err := s.change(func(flash.Env) flash.Env { return nil })
	if err != nil {
		s.log.Sayf("slot %s: %v", s.slot, err)
		s.say(degraded, err.Error())
		return
	}
	if state, _ := now.State(s.slot, flash.Held{Digest: s.digest}); state == flash.Good {
		_ = os.Remove(s.flag)
		s.spawn(func() { s.remember(ctx) })
		return
	}
	s.mu.Lock()
	s.trial, s.started = true, now
	s.mu.Unlock()
	if err := os.WriteFile(s.flag, nil, 0o644); err != nil {
		s.log.Sayf("slot %s: %v", s.slot, err)
	}
	s.say(starting, "on trial")
	s.spawn(func() { s.try(ctx) })
}

// try makes the checks until all pass or the time is over.
func (s *slotPart) try(ctx context.Context) {
	limit := time.Duration(s.config().HealthLimit) * time.Second
	end := time.Now().Add(limit)
	why := ""
	for time.Now().Before(end) {
		if why = s.check(ctx, end); why == "" {
			s.pass()
			s.remember(ctx)
			return
		}
		s.say(starting, why)
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.pace):
		}
	}
	s.say(degraded, why)
	s.log.Sayf("slot %s is not healthy after %v: %s", s.slot, limit, why)
	// The host starts the card again. A board without a host that looks does it itself.
	select {
	case <-ctx.Done():
	case <-time.After(verdictLimit):
		s.mu.Lock()
		s.trial = false // the attempt is not given back
		s.mu.Unlock()
		s.reboot()
	}
}

func (s *slotPart) say(state health, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = s.state.with(state, detail)
}

// pass marks the slot good.
func (s *slotPart) pass() {
	_, err := s.change(func(flash.Env) flash.Env { return flash.Marked(s.slot, s.digest) })
	if err != nil {
		s.say(degraded, fmt.Sprintf("check environment: %v", err))
		return
	}
	s.mu.Lock()
	s.trial = false
	s.mu.Unlock()
	_ = os.Remove(s.flag)
	s.say(healthy, "slot "+string(s.slot)+" is good")
	s.log.Sayf("slot %s passed all health checks and is good", s.slot)
}

// check returns why the card is not healthy: "check NAME: reason", and the lines of its output.
// It returns "" where it is.
func (s *slotPart) check(ctx context.Context, end time.Time) string {
	before := s.degradedBefore()
	for _, p := range s.parts {
		if _, units := p.(*unitsPart); units || p == part(s) {
			continue
		}
		for _, r := range p.health() {
			if r.state == starting || r.state == degraded && !slices.Contains(before, r.component) {
				return fmt.Sprintf("check %s: %s", r.component, r.detail)
			}
		}
	}
	names, err := filepath.Glob(filepath.Join(s.checks, "*"))
	if err != nil {
		return "check " + s.checks + ": " + err.Error()
	}
	for _, path := range names { // sorted
		if st, err := os.Stat(path); err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
			continue
		}
		if why := runCheck(ctx, path, min(checkLimit, max(time.Until(end), time.Second))); why != "" {
			return fmt.Sprintf("check %s: %s", filepath.Base(path), why)
		}
	}
	return ""
}

// asLine makes one line of several.
func asLine(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", control.LineBreak)
}

// runCheck runs a check with all that it starts, and returns why it failed, and its output.
func runCheck(ctx context.Context, path string, limit time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out lastBytes
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &out, &out
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return asLine(fmt.Sprintf("not done after %v\n%s", limit.Round(time.Second), out.text()))
	case err != nil:
		return asLine(fmt.Sprintf("%v\n%s", err, out.text()))
	}
	return ""
}

// lastBytes keeps the end of what is written.
type lastBytes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p[max(0, len(p)-maxOutput):])
	l.b.Next(max(0, l.b.Len()-maxOutput))
	return len(p), nil
}

func (l *lastBytes) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return tail.Visible(strings.ToValidUTF8(l.b.String(), "?"), "\n\t")
}

func (s *slotPart) health() []reason {
	var out []reason
	if text, err := os.ReadFile(filepath.Join(runDir, dataFault)); err == nil && s.opts.Service {
		out = append(out, reason{dataName, degraded, string(text)})
	}
	if rescue := s.config().Rescue; rescue != "" {
		out = append(out, reason{"firmware", degraded, "this is the rescue system: " + rescue})
	}
	if s.slot == "" {
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(out, s.state)
}

// close gives the attempt back where the card shuts down in good order before the verdict. An
// orderly end was requested and says nothing about the slot.
func (s *slotPart) close() {
	s.mu.Lock()
	trial, started := s.trial, s.started
	s.mu.Unlock()
	if !trial || !s.isEnding() {
		return
	}
	_, err := s.change(func(now flash.Env) flash.Env { return now.GiveBack(started, s.slot, s.digest) })
	if err != nil {
		s.log.Sayf("slot %s: %v", s.slot, err)
	}
}

// reboot restarts the card from within.
func (s *slotPart) reboot() {
	s.log.Sayf("slot %s: restarting the card", s.slot)
	if s.opts.Service {
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		return
	}
	s.end(Reboot)
}

// isEnding asks systemd whether it takes the card down. In the end systemd-shutdown(8) takes its place.
func isEnding() bool {
	if name, err := os.ReadFile("/proc/1/comm"); err == nil && strings.HasPrefix(string(name), "systemd-shutdow") {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // its status is not 0 then
	return strings.TrimSpace(string(out)) == "stopping"
}
