package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/newc"
)

// microInitramfs returns the whole root file system of the micro edition.
func microInitramfs(b *base, agent []byte) ([]byte, error) {
	return initramfs(b, newc.Regular("/init", 0o755, agent))
}

// initramfs is that root file system with the given /init, or without one. A card that upgrades its
// packages appends its own.
func initramfs(b *base, init ...newc.File) ([]byte, error) {
	applets, err := busyboxApplets(b.busybox)
	if err != nil {
		return nil, err
	}
	files := slices.Concat(skeleton(), init,
		[]newc.File{newc.Regular("/bin/busybox", 0o755, b.busybox)}, links(applets), b.modules)
	var out bytes.Buffer
	if err := newc.Write(&out, withParents(files)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// skeleton is the file system before the agent runs. The kernel opens /dev/console for PID 1, so
// the node must exist before devtmpfs is mounted.
func skeleton() []newc.File {
	return []newc.File{
		newc.Dir("/", 0o755),
		newc.Dir("/dev", 0o755),
		newc.CharDevice("/dev/console", 0o600, 5, 1),
		newc.CharDevice("/dev/null", 0o666, 1, 3),
		newc.Dir("/proc", 0o555), newc.Dir("/sys", 0o555), newc.Dir("/run", 0o755),
		newc.Dir("/tmp", 0o777|fs.ModeSticky), newc.Dir("/var", 0o755), newc.Dir("/var/log", 0o755), newc.Dir("/var/lib", 0o755), newc.Dir("/mnt", 0o755),
		newc.Dir("/root", 0o700),
		newc.Dir("/bin", 0o755), newc.Link("/sbin", "bin"),
		newc.Dir("/usr", 0o755), newc.Link("/usr/bin", "../bin"), newc.Link("/usr/sbin", "../bin"),
		newc.Link("/var/run", "../run"),
		newc.Dir("/etc", 0o755),
		newc.Regular("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")),
		newc.Regular("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		newc.Regular("/etc/shells", 0o644, []byte("/bin/sh\n")),
		newc.Regular("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		newc.Regular("/etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n")),
		newc.Regular("/etc/profile", 0o644, []byte("export PATH=/bin PAGER=less\nPS1='\\h:\\w\\$ '\n")),
		newc.Regular("/etc/os-release", 0o644, []byte("ID=toe\nNAME=toe\nPRETTY_NAME=\"toe card, micro edition\"\nVARIANT_ID=micro\n")),
	}
}

// modprobeTarget is the target of /sbin/modprobe: busybox, once the agent has mounted /proc. Before
// that the kernel's crypto requests modules some ten times, none of which a card needs to start.
// Without a program to run such a request costs nothing. With one, a card on QEMU without KVM was
// ready 0.4 s of 2.7 s later.
const modprobeTarget = "/proc/self/root/bin/busybox"

// ours lists applets that the agent replaces, or that would interfere with it.
var ours = []string{"busybox", "init", "linuxrc"}

func links(applets []string) []newc.File {
	var files []newc.File
	for _, name := range applets {
		target := "busybox"
		if name == "modprobe" {
			target = modprobeTarget
		}
		if !slices.Contains(ours, name) {
			files = append(files, newc.Link("/bin/"+name, target))
		}
	}
	return files
}

// busyboxApplets reads the applet names from the program file, because another architecture's
// busybox cannot be run. They are one sorted run of NUL-terminated strings that begins with "[" and
// "[[".
func busyboxApplets(program []byte) ([]string, error) {
	const begin = "[\x00[[\x00"
	at := bytes.Index(program, []byte(begin))
	if at < 0 {
		return nil, errors.New("busybox: no list of applets found in it")
	}
	names := []string{"[", "[["}
	rest := program[at+len(begin):]
	for {
		name, after, found := bytes.Cut(rest, []byte{0})
		if !found || !isApplet(string(name)) || string(name) <= names[len(names)-1] {
			break
		}
		names, rest = append(names, string(name)), after
	}
	for _, must := range []string{"ash", "ip", "modprobe", "mount", "ps", "sh", "vi"} {
		if !slices.Contains(names, must) {
			return nil, fmt.Errorf("busybox: the list of its %d applets lacks %s", len(names), must)
		}
	}
	return names, nil
}

func isApplet(name string) bool {
	return name != "" && len(name) < 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.[") == ""
}
