package doctor

import (
	"bufio"
	"context"
	"errors"
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
	"github.com/toe-project/toe/hostnet/firewall"
	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/internal/progress"
)

const (
	tunDevice = "/dev/net/tun"
	loadTUN   = "sudo modprobe tun   # in a container: --device /dev/net/tun"
)

func checkTUN(_ context.Context, _ Host) Result {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return Result{State: Pass, Detail: tunDevice + " can be opened"}
	case os.IsNotExist(err):
		return Result{State: Fail, Detail: err.Error(), Fix: loadTUN}
	case os.IsPermission(err):
		return Result{
			State: Fail, Detail: err.Error(),
			Fix: "sudo chmod 0666 " + tunDevice + "   # as udev does; interfaces still need privilege",
		}
	}
	return Result{
		State: Fail, Detail: fmt.Sprintf("%v: the kernel has no TUN driver", err),
		Fix: loadTUN,
	}
}

// checkPrivileges makes the namespaces that root's cards run in. In a container
// root lacks the privilege for that unless it was given.
func checkPrivileges(ctx context.Context, _ Host) Result {
	if os.Geteuid() != 0 {
		return Result{State: Skip, Detail: "not root: a card needs user namespaces instead"}
	}
	cmd := exec.CommandContext(ctx, "/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
			unix.CLONE_NEWNET,
	}
	err := privilege.Namespaces("new namespaces", cmd.Run())
	if err == nil && !privilege.Has(privilege.NetAdmin) {
		err = privilege.Lacks("a network interface", unix.EPERM, privilege.NetAdmin)
	}
	if err != nil {
		return withoutPrivilege(err, Result{State: Fail, Detail: err.Error(), Fix: "run toe elsewhere"})
	}
	return Result{State: Pass, Detail: "root with CAP_SYS_ADMIN and CAP_NET_ADMIN"}
}

// checkFirewall sends packets as a link does. A card without root has its link
// in a network namespace of its own, which has no firewall.
func checkFirewall(ctx context.Context, _ Host) Result {
	if os.Geteuid() != 0 || !privilege.Has(privilege.NetAdmin) {
		return Result{State: Skip, Detail: "a card without root has its link in a namespace of its own"}
	}
	err := firewall.Probe(ctx)
	var dropped *firewall.Dropped
	switch {
	case err == nil:
		return Result{State: Pass, Detail: "packets of a link pass"}
	case errors.As(err, &dropped):
		return Result{State: Fail, Detail: err.Error(), Fix: dropped.Fix()}
	}
	return Result{State: Skip, Detail: err.Error()}
}

// checkUserns makes one: settings differ from host to host, the outcome counts.
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
		return Result{State: Pass, Detail: "can be made: a card needs no root"}
	}
	r := withoutPrivilege(privilege.Namespaces("new user namespace", err), Result{
		State: Fail, Detail: err.Error(), Fix: "run toe as root",
	})
	if uid == 0 {
		r.State = Warn // root does without
	}
	return r
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
			return Result{
				State: Fail, Detail: text + ", a card needs " + progress.Size(memoryNeeded),
				Fix: "give the card less, machine: {memory: 128MiB}, or end other programs",
			}
		}
		return Result{State: Pass, Detail: text}
	}
	return Result{State: Skip, Detail: "/proc/meminfo has no MemAvailable"}
}

func checkDisk(_ context.Context, h Host) Result {
	dir := existing(h.Dirs.Cache)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Result{
			State: Fail, Detail: fmt.Sprintf("%s: %v", dir, err),
			Fix: "set TOE_CACHE_DIR to a writable folder",
		}
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	text := fmt.Sprintf("%s free for %s", progress.Size(free), h.Dirs.Cache)
	switch {
	case free < diskNeeded:
		return Result{
			State: Fail, Detail: text + ", firmware needs " + progress.Size(diskNeeded),
			Fix: "make room, or set TOE_CACHE_DIR",
		}
	case free < diskNative:
		return Result{
			State: Warn, Detail: text + ", building User-Mode Linux needs " + progress.Size(diskNative),
			Fix: "make room, or set TOE_CACHE_DIR",
		}
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
	var dead, fixes []string
	for _, name := range names {
		c, err := h.Dirs.Open(name)
		if err != nil {
			return Result{State: Fail, Detail: err.Error(), Fix: "toe rm " + name}
		}
		if fix, what := leftover(ctx, c); fix != "" {
			dead, fixes = append(dead, what), append(fixes, fix)
		}
	}
	if len(dead) == 0 {
		return Result{State: Pass, Detail: fmt.Sprintf("none; %d cards", len(names))}
	}
	return Result{State: Warn, Detail: strings.Join(dead, "; "), Fix: strings.Join(fixes, "; ")}
}

func leftover(ctx context.Context, c *store.Card) (fix, what string) {
	if c.Running() {
		return "", ""
	}
	if c.Abandoned() {
		return "toe rm " + c.Name, c.Name + " was made for a command that is gone"
	}
	if hostnet.Unrestored(c) {
		return "toe down " + c.Name, c.Name + " does not run, and /etc/resolv.conf is still its own"
	}
	st, err := client.Status(ctx, c)
	if err == nil && st.State == status.Failed && st.Killed {
		return "toe down " + c.Name, strings.Join(st.Reasons, ", ")
	}
	return "", ""
}
