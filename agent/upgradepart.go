package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/agent/upgrade"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/flash"
)

// upgradePart upgrades the packages of a card in a copy of its root (package upgrade). It decides whether
// an upgrade may begin, keeps what RAUC and the boot environment say true, and watches the worker.
type upgradePart struct {
	idle
	*env
	worker []string // the program that does the work, with its arguments
}

// WorkerVerb makes the agent's program the worker of an upgrade.
const WorkerVerb = "upgrade-worker"

const (
	// updateLock is locked while a slot is written by an upgrade; RAUC's pre-install handler looks at it.
	updateLock = runDir + "/update.lock"
	aptGet     = "/usr/bin/apt-get"
	dpkgStatus = "/var/lib/dpkg/status"
	raucSlots  = dataDir + "/rauc/central.raucs" // what RAUC installed where
	// rootReserve is the free space that an upgrade leaves in the new root, in bytes.
	rootReserve = 32 << 20
)

func newUpgradePart(e *env) *upgradePart {
	return &upgradePart{env: e, worker: []string{agentProgram, WorkerVerb}}
}

func (p *upgradePart) status(out *cardpb.StatusResponse) {
	if p.able() == nil {
		out.Capabilities = append(out.Capabilities, control.CapUpgrade)
	}
}

// able says why the card cannot upgrade itself whatever its state is.
func (p *upgradePart) able() error {
	if !p.opts.Service || partOf[*slotPart](p.env).slot == "" {
		return errors.New("this card runs from no slot of a flash; want firmware of edition debian")
	}
	if _, err := os.Stat(filepath.Join(upgrade.BootDir, "kernel")); err != nil {
		return fmt.Errorf("this card's image has no package with its kernel: %w; want an image of a newer toe", err)
	}
	return nil
}

// refusal is an error before anything was changed.
func refusal(format string, args ...any) error {
	return &installError{text: fmt.Errorf(format, args...).Error() + "; nothing was changed"}
}

// upgrade does all of it. slot is empty where nothing is newer.
func (p *upgradePart) upgrade(ctx context.Context, say func(percent int, step string)) (
	slot flash.Slot, changes []string, err error,
) {
	if err := p.able(); err != nil {
		return "", nil, connect.NewError(connect.CodeUnimplemented, err)
	}
	install := partOf[*installPart](p.env)
	if !install.begin(ctx) {
		return "", nil, connect.NewError(connect.CodeUnavailable, errors.New("another update is running"))
	}
	defer install.busy.Unlock()
	p.log.Sayf("upgrade: begins")
	slot, changes, err = p.locked(ctx, say)
	switch {
	case err != nil:
		p.log.Sayf("upgrade: %v", err)
	case slot == "":
		p.log.Sayf("upgrade: no package is newer")
	default:
		p.log.Sayf("upgrade: %d packages changed in slot %s, which starts next", len(changes), slot)
	}
	return slot, changes, err
}

func (p *upgradePart) locked(ctx context.Context, say func(int, string)) (flash.Slot, []string, error) {
	// RAUC looks at the lock before it installs, so it is taken before RAUC is asked what it does.
	lock, err := os.OpenFile(updateLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, refusal("%s: %w: another update is running", updateLock, err)
	}
	if err := p.mayBegin(ctx); err != nil {
		return "", nil, err
	}
	say(0, "reading the lists of the mirrors")
	if err := p.refresh(ctx); err != nil {
		return "", nil, refusal("%w", err)
	}
	updates, err := p.pending(ctx, true)
	if err != nil || len(updates) == 0 {
		return "", nil, err
	}
	active := partOf[*slotPart](p.env)
	next := active.slot.Other()
	job, err := p.job(ctx, active.slot, next)
	if err != nil {
		return "", nil, err
	}
	// From here on the other slot is bad, until all of it is on the disk.
	if _, err := active.change(func(now flash.Env) flash.Env { return now.Unusable(next) }); err != nil {
		return "", nil, err
	}
	p.keepRecord("", next)
	changes, err := p.run(ctx, job, say)
	if err != nil {
		said := raucSaid{writing: true}
		if ctx.Err() != nil {
			err = errors.New("canceled")
		}
		return "", nil, &installError{touched: true, text: err.Error() + said.consequence()}
	}
	p.keepRecord(active.slot, next)
	if _, err := active.change(func(now flash.Env) flash.Env { return now.Preferred(next) }); err != nil {
		return "", nil, err
	}
	return next, changes, nil
}

// mayBegin refuses an upgrade that the card's state does not allow.
func (p *upgradePart) mayBegin(ctx context.Context) error {
	s := partOf[*slotPart](p.env)
	s.mu.Lock()
	trial := s.trial
	s.mu.Unlock()
	if trial {
		return refusal("slot %s is on trial: the other slot is its way back; want it to be good first", s.slot)
	}
	if text, err := os.ReadFile(filepath.Join(runDir, dataFault)); err == nil {
		return refusal("the card runs without its data: %s", text)
	}
	// The new slot has to pass the same checks.
	if why := s.check(ctx, time.Now().Add(time.Minute)); why != "" {
		return refusal("the running slot is not healthy, and the new one would not be: %s", why)
	}
	if out, err := p.output(ctx, "dpkg", "--audit"); err != nil || len(out) > 0 {
		return refusal("dpkg --audit: packages are not installed completely: %.300s; fix: `dpkg --configure -a` and `apt-get -f install` on the card", out)
	}
	return p.stopIdleRAUC(ctx)
}

// stopIdleRAUC ends RAUC's service, which would write over what keepRecord notes. It starts by itself
// when RAUC is asked the next time.
func (p *upgradePart) stopIdleRAUC(ctx context.Context) error {
	if _, err := p.output(ctx, "systemctl", "is-active", "--quiet", "rauc.service"); err != nil {
		return nil
	}
	out, err := p.output(ctx, "busctl", "get-property", "de.pengutronix.rauc", "/", "de.pengutronix.rauc.Installer", "Operation")
	if err != nil {
		return refusal("RAUC does not say whether it is installing a bundle: %w", err)
	}
	if !strings.Contains(string(out), `"idle"`) {
		return refusal("RAUC is installing a bundle")
	}
	partOf[*installPart](p.env).stop()
	return nil
}

func (p *upgradePart) output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return partOf[*installPart](p.env).output(ctx, name, args...)
}

// apt runs apt-get on the running system and returns what it prints. Its own words are in the error.
func (p *upgradePart) apt(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, aptGet, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := p.procs.start(cmd); err != nil {
		return "", err
	}
	err := p.procs.wait(cmd)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("apt-get %s: %w: %.1000s", args[0], err, strings.ReplaceAll(strings.TrimSpace(complaint.String()), "\n", "; "))
	}
	return out.String(), nil
}

// refresh reads the lists of the mirrors. One that cannot be read is an error.
func (p *upgradePart) refresh(ctx context.Context) error {
	_, err := p.apt(ctx, "update", "-q", "-o", "APT::Update::Error-Mode=any")
	return err
}

// pending lists what an upgrade would install; with the kernel, which is held on a running card.
func (p *upgradePart) pending(ctx context.Context, kernel bool) ([]upgrade.Update, error) {
	args := append([]string{"upgrade", "--simulate"}, upgrade.UpgradeArgs...)
	if kernel {
		text, err := os.ReadFile(dpkgStatus)
		if err != nil {
			return nil, err
		}
		copied, err := os.CreateTemp(runDir, "dpkg.status-*")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(copied.Name()) }()
		_, err = copied.WriteString(upgrade.Unhold(string(text)))
		if err := errors.Join(err, copied.Close()); err != nil {
			return nil, err
		}
		args = append(args, "-o", "Dir::State::status="+copied.Name())
	}
	out, err := p.apt(ctx, args...)
	return upgrade.ParseSimulation(out), err
}

// job says what the worker has to do, where the slot has room for it.
func (p *upgradePart) job(ctx context.Context, active, next flash.Slot) (upgrade.Job, error) {
	j := upgrade.Job{Work: filepath.Join(runDir, "upgrade"), Time: time.Now()}
	for label, device := range map[string]*string{next.Root(): &j.Root, next.Boot(): &j.Boot, active.Boot(): &j.Active} {
		var err error
		if *device, err = findDisk("/sys/class/block", partLabel+label); err != nil || *device == "" {
			return j, refusal("no partition %s: %v", label, err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/etc", &fs); err == nil && uint32(fs.Type) == unix.OVERLAYFS_SUPER_MAGIC {
		j.DataEtc = filepath.Join(dataDir, "etc/upper")
	}
	if err := unix.Statfs("/", &fs); err != nil {
		return j, err
	}
	uris, err := p.apt(ctx, append([]string{"upgrade", "--print-uris", "-qq", "-y"}, upgrade.UpgradeArgs...)...)
	if err != nil {
		return j, refusal("%w", err)
	}
	size, err := deviceSize(j.Root)
	if err != nil {
		return j, refusal("%s: %w", j.Root, err)
	}
	used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	// Packages take some four times their compressed size, beside what they replace.
	need := int64(used) + 5*upgrade.DownloadSize(uris) + rootReserve
	if room := size - size/20; need > room {
		return j, refusal("slot %s has room for %d MB, the root with its upgrades needs %d MB; `apt-get clean` on the card may help",
			next, room/1e6, need/1e6)
	}
	return j, nil
}

func deviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return f.Seek(0, io.SeekEnd)
}

// run runs the worker, and returns what it changed.
func (p *upgradePart) run(ctx context.Context, job upgrade.Job, say func(int, string)) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, p.worker[0], p.worker[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), "LC_ALL=C.UTF-8"), "/"
	cmd.SysProcAttr = upgrade.NewSpaces()
	// The worker ends when its input does: with the agent, whatever ends that.
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	var complaint lastBytes
	cmd.Stdout, cmd.Stderr = w, &complaint
	err = p.procs.start(cmd)
	_ = w.Close()
	if err != nil {
		return nil, fmt.Errorf("the worker of the upgrade: %w", err)
	}
	_, err = in.Write(append(text, '\n'))
	last := followWorker(out, say)
	waitErr := p.procs.wait(cmd)
	switch {
	case last.Error != "":
		return nil, errors.New(last.Error)
	case !last.Done:
		return nil, fmt.Errorf("the worker of the upgrade ended early: %w %s", errors.Join(waitErr, err), complaint.text())
	}
	return last.Changes, nil
}

// followWorker reads the worker's steps to the end, and returns the last one.
func followWorker(r io.Reader, say func(int, string)) (last upgrade.Step) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		var s upgrade.Step
		if json.Unmarshal(line, &s) == nil && err == nil {
			if last = s; s.Text != "" {
				say(s.Percent, s.Text)
			}
		}
		if err != nil {
			return last
		}
	}
}

// keepRecord notes for RAUC that slot to holds what slot from does; nothing where from is empty. A
// mistake there costs the check of a version, and not the upgrade.
func (p *upgradePart) keepRecord(from, to flash.Slot) {
	text, err := os.ReadFile(raucSlots)
	if err != nil {
		return // RAUC has installed nothing yet
	}
	if next := copyRecord(string(text), from, to); next != string(text) {
		if err := writeSynced(raucSlots, next); err != nil {
			p.log.Sayf("upgrade: %s: %v", raucSlots, err)
		}
	}
}
