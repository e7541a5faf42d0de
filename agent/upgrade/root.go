package upgrade

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// env is the environment of programs that run unattended in the new root.
var env = []string{
	"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive",
	"DEBCONF_NONINTERACTIVE_SEEN=true", "NEEDRESTART_SUSPEND=1", "APT_LISTCHANGES_FRONTEND=none",
}

// command runs a program, in the root dir where that is not empty. Its error has the program's last words.
func (w *worker) command(ctx context.Context, dir, program string, args ...string) error {
	var out bytes.Buffer
	cmd := prepare(ctx, dir, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	return explain(ctx, left(cmd.Run()), program, out.String())
}

func prepare(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// left accepts that a program has ended and left another one behind that holds its output: a script of a
// package may start one. It ends with the worker, which is the first process of its name space.
func left(err error) error {
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

func explain(ctx context.Context, err error, program, said string) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, lastWords(said))
	}
	return nil
}

// lastWords are the errors that apt reported, or the end of what a program said.
func lastWords(said string) string {
	var errs, all []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		all = append(all, line)
		if strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "dpkg: error") {
			errs = append(errs, line)
		}
	}
	if len(errs) == 0 {
		errs = all[max(0, len(all)-5):]
	}
	text := strings.Join(errs, "; ")
	return text[:min(len(text), 2<<10)]
}

// upgrade runs apt in the new root, and depmod for its kernel.
func (w *worker) upgrade(ctx context.Context) error {
	etc, err := w.beginEtc(ctx)
	if err != nil {
		return err
	}
	end, err := w.enter()
	if err != nil {
		return err
	}
	defer end()
	if err := w.command(ctx, w.to, "/usr/bin/apt-mark", "unhold", Kernel); err != nil {
		return err
	}
	if err := w.apt(ctx); err != nil {
		return err
	}
	for _, words := range [][]string{
		{"/usr/bin/apt-mark", "hold", Kernel}, {"/usr/bin/apt-get", "clean"}, {"/usr/bin/dpkg", "--audit"},
	} {
		if err := w.command(ctx, w.to, words[0], words[1:]...); err != nil {
			return err
		}
	}
	release, err := os.ReadFile(filepath.Join(w.to, BootDir, "release"))
	if err != nil {
		return err
	}
	if err := w.command(ctx, w.to, "/usr/sbin/depmod", strings.TrimSpace(string(release))); err != nil {
		return err
	}
	end()
	return w.endEtc(etc)
}

// enter mounts in the new root what programs need. The card's own /run is not among it: no program in the
// root reaches the services that run. The returned function undoes it.
func (w *worker) enter() (end func(), err error) {
	policy := filepath.Join(w.to, "usr/sbin/policy-rc.d")
	_, err = os.Lstat(policy)
	ours := errors.Is(err, os.ErrNotExist)
	if ours {
		// Debian's way to say that no package starts or stops a service.
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return nil, err
		}
	}
	var mounted []string
	end = func() {
		for i := len(mounted) - 1; i >= 0; i-- {
			_ = unix.Unmount(mounted[i], unix.MNT_DETACH)
		}
		mounted = nil
		if ours {
			_ = os.Remove(policy)
		}
	}
	for _, m := range []struct {
		from, at, kind string
		flags          uintptr
	}{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/sys", "sys", "", unix.MS_BIND},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"/var/log", "var/log", "", unix.MS_BIND},
	} {
		at := filepath.Join(w.to, m.at)
		if err := unix.Mount(m.from, at, m.kind, m.flags, ""); err != nil {
			end()
			return nil, fmt.Errorf("mount %s on %s: %w", m.from, at, err)
		}
		mounted = append(mounted, at)
	}
	if err := os.MkdirAll(filepath.Join(w.to, "run/lock"), 0o1777); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// UpgradeArgs are those of apt-get for an upgrade: it may install new packages, and removes none. A
// configuration file that was changed stays.
var UpgradeArgs = []string{
	"--with-new-pkgs", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
}

// apt upgrades the packages of the new root.
func (w *worker) apt(ctx context.Context) error {
	r, status, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	var out bytes.Buffer
	args := append([]string{"-q", "-y", "-o", "APT::Status-Fd=3", "-o", "Dpkg::Use-Pty=0"}, UpgradeArgs...)
	cmd := prepare(ctx, w.to, "/usr/bin/apt-get", append(args, "upgrade")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, []*os.File{status}
	err = cmd.Start()
	_ = status.Close()
	if err != nil {
		return err
	}
	followed := make(chan struct{})
	go func() { w.followApt(r, 40, 85); close(followed) }()
	err = left(cmd.Wait())
	_ = r.SetReadDeadline(time.Now().Add(time.Second)) // what is left behind may hold the pipe
	<-followed
	return explain(ctx, err, "apt-get upgrade", out.String())
}

// followApt reports the progress that apt writes (APT::Status-Fd), from percent low to high: lines of
// kind:what:percent:text. Downloads are a third of it.
func (w *worker) followApt(r io.Reader, low, high int) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) < 4 {
			continue
		}
		done, err := strconv.ParseFloat(f[2], 64)
		if err != nil || done < 0 || done > 100 {
			continue
		}
		switch third := float64(high-low) / 3; f[0] {
		case "dlstatus":
			w.say(low+int(done/100*third), "%s", f[3])
		case "pmstatus":
			w.say(low+int(third+done/100*2*third), "%s", f[3])
		}
	}
	_, _ = io.Copy(io.Discard, r)
}
