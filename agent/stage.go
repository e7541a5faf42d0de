package agent

import (
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

// A card whose root is on a disk starts in the initramfs, too. PID 1 there mounts the root that the
// kernel's command line names, starts the agent in it and executes the root's own init. So the link
// is up before that init has read its first file. The agent is a child of PID 1 from then on, and
// its unit adopts it (service.go).
//
// Where the root cannot be used PID 1 goes on as it does without one. The initramfs is all that it
// needs: the card has its link and ssh, and reports what is wrong with the root.

const (
	// newRoot is where the root is mounted until it takes the initramfs's place.
	newRoot = "/newroot"
	// runDir has, on such a card, what the host wrote into the initramfs: in memory only.
	runDir = "/run/toe"
	// agentProgram is the agent in the root.
	agentProgram = "/usr/sbin/toe-agent"

	diskLimit = 10 * time.Second // until the disk is there
	// agentWait is how long init waits for the agent to carry traffic. Both at the same time would
	// take as long, and the traffic would come last.
	agentWait = 30 * time.Second
	testLimit = 30 * time.Second // for the root's init to say its version
)

// umlRoot is what User-Mode Linux itself adds to a command line without a root.
const umlRoot = "98:0"

// rootDevice returns the device that the kernel's command line names as root, or "".
func rootDevice(cmdline string) string {
	device := ""
	for word := range strings.FieldsSeq(cmdline) {
		if value, ok := strings.CutPrefix(word, "root="); ok && value != umlRoot {
			device = value
		}
	}
	return device
}

// goToRoot executes the init of the root on a disk. It returns nil where the card has no such root,
// and an error where that cannot be used; then nothing of it is mounted or runs.
func goToRoot(log *Log) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	device := rootDevice(string(cmdline))
	if device == "" {
		return nil
	}
	loadModules(log, modulesDir, diskList)
	if err := mountRoot(device); err != nil {
		return fmt.Errorf("root %s: %w", device, err)
	}
	err = enterRoot(log)
	unmountData()
	for _, dir := range append(sharedDirs, "") {
		_ = unix.Unmount(newRoot+dir, unix.MNT_DETACH)
	}
	return fmt.Errorf("root %s: %w", device, err)
}

// sharedDirs are file systems of the initramfs that stay.
var sharedDirs = []string{"/dev", "/proc", "/sys", "/run"}

// mountRoot waits for the disk and mounts it.
func mountRoot(device string) error {
	device, err := awaitDisk(device)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, newRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// enterRoot returns only if it fails.
func enterRoot(log *Log) error {
	init, err := checkRoot(newRoot)
	if err != nil {
		return err
	}
	if err := handOver("/etc/toe", runDir); err != nil {
		return err
	}
	for _, dir := range sharedDirs {
		if err := os.MkdirAll(newRoot+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s in it: %w", dir, err)
		}
	}
	if err := mountData(log); err != nil {
		// A card without its data is a card still. The agent reports it.
		log.Sayf("%v; the card goes on without its data", err)
		unmountData()
		_ = os.WriteFile(filepath.Join(runDir, dataFault), []byte(err.Error()), 0o600)
	}
	agent, err := startAgent(log)
	if err != nil {
		return err
	}
	if err = tryInit(init); err == nil {
		err = switchRoot() // does not return
	}
	_ = agent.Process.Kill()
	_ = agent.Wait()
	return err
}

// checkRoot looks for the programs that the card cannot do without. It returns the path of init.
func checkRoot(dir string) (init string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	for _, name := range []string{"/sbin/init", agentProgram} {
		st, err := root.Stat(name[1:])
		switch {
		case err != nil:
			return "", err
		case !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0:
			return "", fmt.Errorf("%s has mode %v, want a program", name, st.Mode())
		}
	}
	init = "/sbin/init"
	if to, err := root.Readlink("sbin/init"); err == nil {
		init = filepath.Clean(filepath.Join("/usr/sbin", to)) // /sbin is usr/sbin
	}
	return init, nil
}

// tryInit asks the root's init for its version. A library that is missing or damaged shows here, and
// not as a panic.
func tryInit(init string) error {
	if filepath.Base(init) != "systemd" {
		return nil // unknown: it may have another idea of --version
	}
	ctx, cancel := context.WithTimeout(context.Background(), testLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, init, "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: newRoot}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s --version: %w: %.200s", init, err, out)
	}
	return nil
}

// handOver copies the files that the host wrote to memory, where the agent in the root reads them.
func handOver(from, to string) error {
	// A service's user passes through it; each file in it is for root alone, or has its own mode.
	if err := os.MkdirAll(to, 0o711); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(name, from))
		if d.IsDir() {
			return os.MkdirAll(at, 0o700)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(at, data, 0o600)
	})
}

// startAgent starts the agent in the root, and waits until it carries traffic.
func startAgent(log *Log) (*exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	cmd := &exec.Cmd{
		Path: agentProgram, Args: []string{agentProgram, "early"}, Dir: "/",
		Env:    []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Chroot: newRoot, Setsid: true},
	}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, fmt.Errorf("starting the agent in it: %w", err)
	}
	_ = r.SetReadDeadline(time.Now().Add(agentWait))
	if _, err := io.ReadAll(r); err != nil {
		log.Sayf("the agent carries no traffic after %v; the root's init starts all the same", agentWait)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	return cmd, os.WriteFile(filepath.Join(runDir, pidFile), []byte(pid+"\n"), 0o600)
}

// switchRoot makes newRoot the root and executes its init. The files of the initramfs are removed:
// they are memory.
func switchRoot() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return err
	}
	// Type has 32 bits with a sign on some architectures.
	if kind := uint32(fs.Type); kind != unix.RAMFS_MAGIC && kind != unix.TMPFS_MAGIC {
		return fmt.Errorf("the initramfs is of type %#x, want memory", fs.Type)
	}
	for _, dir := range append(sharedDirs, "/tmp") {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	for _, dir := range []string{"/lib", "/bin", "/usr", "/var", "/etc", "/root", "/mnt", "/init"} {
		_ = os.RemoveAll(dir)
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving it to /: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), os.Chdir("/")); err != nil {
		return err
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}
	return fmt.Errorf("executing /sbin/init: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, env))
}
