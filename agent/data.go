package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/agent/upgrade"
	"github.com/toe-project/toe/flash"
)

// The data partition of a flash has what survives an update: the card's own configuration, its logs,
// and the homes of its users. Stage one mounts it before anything of the root runs.
//
//	/data/version     number of the layout
//	/data/undo/N      shell script that takes step N of the layout back
//	/data/etc         upper layer over the root's /etc: what was changed there; and what the last upgrade of
//	                  packages made of it (package upgrade)
//	/data/health.d    the administrator's health checks
//	/data/keep/…      folders that are mounted over those of the root
const (
	dataDir  = "/data"
	dataName = "data" // of the partition
)

// keptDirs are folders of the root that live on the data partition.
var keptDirs = []string{"/var/log", "/root", "/home", "/srv", "/usr/local"}

// dataStep leads from one layout of the data to the next. A power loss may repeat it, so it can be
// done twice. It leaves its way back on the partition, because an older system, which
// does not know the step, needs that: a shell script that runs in the data's folder.
type dataStep struct {
	up   func(dir string) error
	back string
}

// dataSteps are all of them. The number of a layout is the number of steps that lead to it.
var dataSteps = []dataStep{
	{func(dir string) error {
		var errs []error
		for _, name := range []string{"etc/upper", "etc/work", "health.d", "keep", "undo"} {
			errs = append(errs, os.MkdirAll(filepath.Join(dir, name), 0o755))
		}
		return errors.Join(errs...)
	}, "rmdir etc/upper etc/work etc health.d keep undo 2>/dev/null || true\n"},
}

// migrate brings the data in dir to the layout of steps, forwards or back. Run executes a script in
// the data's folder.
func migrate(dir string, steps []dataStep, run func(script string) error) error {
	version, err := dataVersion(dir)
	if err != nil {
		return err
	}
	for ; version < len(steps); version++ {
		step, number := steps[version], strconv.Itoa(version+1)
		if err := step.up(dir); err != nil {
			return fmt.Errorf("data: step %s: %w", number, err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "undo"), 0o755); err != nil {
			return err
		}
		if err := writeSynced(filepath.Join(dir, "undo", number), step.back); err != nil {
			return err
		}
		if err := writeSynced(filepath.Join(dir, "version"), number+"\n"); err != nil {
			return err
		}
	}
	for ; version > len(steps); version-- {
		script, err := os.ReadFile(filepath.Join(dir, "undo", strconv.Itoa(version)))
		if err != nil {
			return fmt.Errorf("data: layout %d, this system reads %d, and there is no way back: %w", version, len(steps), err)
		}
		if err := run(string(script)); err != nil {
			return fmt.Errorf("data: from layout %d to %d: %w", version, version-1, err)
		}
		if err := writeSynced(filepath.Join(dir, "version"), strconv.Itoa(version-1)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// maxDataVersion bounds what a damaged partition can ask for.
const maxDataVersion = 1000

func dataVersion(dir string) (int, error) {
	path := filepath.Join(dir, "version")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 || n > maxDataVersion {
		return 0, fmt.Errorf("%s: %.40q: want a number up to %d", path, text, maxDataVersion)
	}
	return n, nil
}

// writeSynced replaces a file by write, fsync and rename.
func writeSynced(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// mountData mounts the data partition and what of it lies over the root in newRoot. A card without a
// flash has none, which is no error.
func mountData(log *Log) error {
	device, err := findDisk("/sys/class/block", partLabel+dataName)
	if err != nil || device == "" {
		return err
	}
	at := newRoot + dataDir
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := makeData(device, openBootEnv, func() error {
		log.Sayf("data: making the file system")
		return inRoot("/sbin/mkfs.ext4", "-q", "-F", "-L", "toe-data", device)
	}); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if err := unix.Mount(device, at, "ext4", unix.MS_NOATIME|unix.MS_NODEV, ""); err != nil {
		log.Sayf("data: mount: %v; checking the file system", err)
		_ = inRoot("/sbin/e2fsck", "-p", device) // its status is not 0 where it has mended something
		if err := unix.Mount(device, at, "ext4", unix.MS_NOATIME|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("data: mount %s: %w; fix: `toe reset --factory` on the host clears it", device, err)
		}
	}
	growFS(log, at)
	run := func(script string) error { return inRoot("/bin/sh", "-ec", "cd "+dataDir+"\n"+script) }
	if err := migrate(at, dataSteps, run); err != nil {
		return err
	}
	if err := upgrade.ApplyEtc(newRoot, at); err != nil {
		log.Sayf("data: /etc: %v", err)
	}
	return keepData(at)
}

// keepData mounts the parts of the data over the root's folders.
func keepData(at string) error {
	upper := fmt.Sprintf("lowerdir=%s/etc,upperdir=%s/etc/upper,workdir=%s/etc/work", newRoot, at, at)
	if err := unix.Mount("overlay", newRoot+"/etc", "overlay", 0, upper); err != nil {
		return fmt.Errorf("data: overlay on /etc: %w", err)
	}
	for _, dir := range keptDirs {
		kept := filepath.Join(at, "keep", strings.ReplaceAll(dir[1:], "/", "-"))
		if err := fillKept(dir, kept); err != nil {
			return fmt.Errorf("data: %s: %w", dir, err)
		}
		if err := unix.Mount(kept, newRoot+dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("data: mount on %s: %w", dir, err)
		}
	}
	return nil
}

// fillKept makes a kept folder, with what the root has in it. It appears when it is complete.
func fillKept(dir, kept string) error {
	if _, err := os.Stat(kept); err == nil {
		return nil
	}
	next := kept + ".new"
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := inRoot("/bin/cp", "-a", dir, strings.TrimPrefix(next, newRoot)); err != nil {
		return err
	}
	return os.Rename(next, kept)
}

// unmountData is the reverse of mountData, for a root that cannot be used.
func unmountData() {
	for _, dir := range append(keptDirs, "/etc", dataDir) {
		_ = unix.Unmount(newRoot+dir, unix.MNT_DETACH)
	}
}

// makingVar is in the boot environment while the file system of the data is made for the first time. A
// power loss can leave any part of that.
const (
	makingVar = "DATA"
	making    = "making"
)

// makeData has mkfs make the file system of the data, if the partition is blank or an earlier mkfs was
// interrupted. Nothing else is ever made new.
func makeData(device string, open func() (bootEnv, error), mkfs func() error) error {
	set := func(value string) func(flash.Env) flash.Env {
		return func(flash.Env) flash.Env { return flash.Env{makingVar: value} }
	}
	now, err := changeEnv(open, func(flash.Env) flash.Env { return nil })
	if err != nil || now[makingVar] != making && !isBlank(device) {
		return err
	}
	if _, err := changeEnv(open, set(making)); err != nil {
		return err
	}
	if err := mkfs(); err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	_, err = changeEnv(open, set(""))
	return err
}

// isBlank reports whether a device begins with zeros, as a partition that was never written does. One
// with anything else is not made new: it may be damaged, and hold data.
func isBlank(device string) bool {
	f, err := os.Open(device)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 64<<10)
	n, err := f.ReadAt(b, 0)
	return err == nil && bytes.Equal(b[:n], make([]byte, n))
}

// inRoot runs a program of the root that is mounted at newRoot.
func inRoot(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: newRoot}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.300s", program, err, out)
	}
	return nil
}
