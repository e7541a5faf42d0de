package doctor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/progress"
)

const tunDevice = "/dev/net/tun"

func checkTUN(_ context.Context, _ Host) Result {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return Result{State: Pass, Detail: tunDevice + " can be opened"}
	case os.IsNotExist(err):
		return Result{State: Fail, Detail: err.Error(), Mend: "sudo modprobe tun"}
	case os.IsPermission(err):
		return Result{State: Fail, Detail: err.Error(), Mend: "sudo chmod 0666 " + tunDevice + "   # what udev gives it; making an interface still needs privilege"}
	}
	return Result{State: Fail, Detail: fmt.Sprintf("%v: the kernel has no TUN driver", err), Mend: "sudo modprobe tun"}
}

// checkUserns makes one: knobs differ from host to host, the outcome counts.
func checkUserns(ctx context.Context, _ Host) Result {
	cmd := exec.CommandContext(ctx, "/bin/true")
	uid, gid := os.Geteuid(), os.Getegid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
	}
	err := cmd.Run()
	if err == nil {
		return Result{State: Pass, Detail: "can be made; no root is needed for a card"}
	}
	r := Result{State: Fail, Detail: err.Error(), Mend: usernsMend()}
	if uid == 0 {
		r.State = Warn // root does without, but for the cell of a uml card
	}
	return r
}

// usernsMend is the knob that is against it here.
func usernsMend() string {
	for _, k := range []struct{ file, bad, mend string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"},
	} {
		if data, err := os.ReadFile(k.file); err == nil && strings.TrimSpace(string(data)) == k.bad {
			return k.mend
		}
	}
	return "run toe as root, or outside of the container that forbids this"
}

// What a card and its processes take, in bytes.
const (
	memoryNeeded = 384 << 20
	diskNeeded   = 1 << 30
	diskNative   = 3 << 30 // to build a User-Mode Linux kernel
)

func checkMemory(_ context.Context, _ Host) Result {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return Result{State: Skip, Detail: err.Error()}
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			break
		}
		text := progress.Size(kib<<10) + " available"
		if kib<<10 < memoryNeeded {
			return Result{State: Fail, Detail: text + ", a card wants " + progress.Size(memoryNeeded), Mend: "give the card less: machine: {memory: 128MiB}, or end something"}
		}
		return Result{State: Pass, Detail: text}
	}
	return Result{State: Skip, Detail: "/proc/meminfo has no MemAvailable"}
}

func checkDisk(_ context.Context, h Host) Result {
	dir := existing(h.Dirs.Cache)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Result{State: Fail, Detail: fmt.Sprintf("%s: %v", dir, err), Mend: "set TOE_CACHE_DIR to a folder that can be written to"}
	}
	free := int64(st.Bavail) * st.Bsize
	text := fmt.Sprintf("%s free for %s", progress.Size(free), h.Dirs.Cache)
	switch {
	case free < diskNeeded:
		return Result{State: Fail, Detail: text + ", firmware wants " + progress.Size(diskNeeded), Mend: "make room, or set TOE_CACHE_DIR"}
	case free < diskNative:
		return Result{State: Warn, Detail: text + ", building User-Mode Linux wants " + progress.Size(diskNative), Mend: "make room, or set TOE_CACHE_DIR"}
	}
	return Result{State: Pass, Detail: text}
}

// existing is the nearest folder above path that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

// checkLeftovers finds cards whose supervisor was killed, and temporary cards
// whose command is gone.
func checkLeftovers(ctx context.Context, h Host) Result {
	names, err := h.Dirs.List()
	if err != nil {
		return Result{State: Fail, Detail: err.Error()}
	}
	var dead, mends []string
	for _, name := range names {
		c, err := h.Dirs.Open(name)
		if err != nil {
			return Result{State: Fail, Detail: err.Error(), Mend: "toe rm " + name}
		}
		if mend, what := leftover(ctx, c); mend != "" {
			dead, mends = append(dead, what), append(mends, mend)
		}
	}
	if len(dead) == 0 {
		return Result{State: Pass, Detail: fmt.Sprintf("none; %d cards", len(names))}
	}
	return Result{State: Warn, Detail: strings.Join(dead, "; "), Mend: strings.Join(mends, "; ")}
}

func leftover(ctx context.Context, c *store.Card) (mend, what string) {
	if c.Running() {
		return "", ""
	}
	if c.Abandoned() {
		return "toe rm " + c.Name, c.Name + " was made for a command that is gone"
	}
	if hostnet.Unrestored(c) {
		return "toe down " + c.Name, c.Name + " does not run, and /etc/resolv.conf still is the one it put there"
	}
	st, err := client.Status(ctx, c)
	if err == nil && st.State == status.Failed && st.Killed {
		return "toe down " + c.Name, strings.Join(st.Reasons, ", ")
	}
	return "", ""
}
