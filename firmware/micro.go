package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// microInitramfs is the whole root file system of the micro edition.
func microInitramfs(b *base, agent []byte) ([]byte, error) {
	applets, err := busyboxApplets(b.busybox)
	if err != nil {
		return nil, err
	}
	files := slices.Concat(skeleton(),
		[]File{
			Regular("/init", 0o755, agent),
			Regular("/bin/busybox", 0o755, b.busybox),
		},
		links(applets), b.modules)
	var out bytes.Buffer
	if err := AppendCPIO(&out, withParents(files)); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// skeleton is what every card has before its agent has run. The kernel opens
// /dev/console for PID 1, so it must be there before devtmpfs is.
func skeleton() []File {
	return []File{
		Dir("/", 0o755),
		Dir("/dev", 0o755),
		CharDevice("/dev/console", 0o600, 5, 1),
		CharDevice("/dev/null", 0o666, 1, 3),
		Dir("/proc", 0o555), Dir("/sys", 0o555), Dir("/run", 0o755),
		Dir("/tmp", 0o777|fs.ModeSticky), Dir("/var", 0o755), Dir("/var/log", 0o755), Dir("/var/lib", 0o755), Dir("/mnt", 0o755),
		Dir("/root", 0o700),
		Dir("/bin", 0o755), Link("/sbin", "bin"),
		Dir("/usr", 0o755), Link("/usr/bin", "../bin"), Link("/usr/sbin", "../bin"),
		Link("/var/run", "../run"),
		Dir("/etc", 0o755),
		Regular("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")),
		Regular("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		Regular("/etc/shells", 0o644, []byte("/bin/sh\n")),
		Regular("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		Regular("/etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n")),
		Regular("/etc/profile", 0o644, []byte("export PATH=/bin PAGER=less\nPS1='\\h:\\w\\$ '\n")),
		Regular("/etc/os-release", 0o644, []byte("ID=toe\nNAME=toe\nPRETTY_NAME=\"toe card, micro edition\"\nVARIANT_ID=micro\n")),
	}
}

// modprobeTarget is where /sbin/modprobe points: to busybox, but only once the
// agent has mounted /proc. Before, the kernel's crypto asks for modules some
// ten times, none of which a card needs to start; without a program to run
// each question costs nothing. With it a card on QEMU without KVM was ready
// 0.4 s of 2.7 s later.
const modprobeTarget = "/proc/self/root/bin/busybox"

// ours are the applets that the agent stands for, or that would act on a card
// behind its back.
var ours = []string{"busybox", "init", "linuxrc"}

func links(applets []string) []File {
	var files []File
	for _, name := range applets {
		target := "busybox"
		if name == "modprobe" {
			target = modprobeTarget
		}
		if !slices.Contains(ours, name) {
			files = append(files, Link("/bin/"+name, target))
		}
	}
	return files
}

// busyboxApplets finds the applet names in the program itself, so that
// another architecture's busybox need not be run: they are one sorted run of
// NUL-terminated strings that begins with "[" and "[[".
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
