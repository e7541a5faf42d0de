// Package privilege says what this process lacks where the kernel refuses it,
// and what provides it.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Missing is an operation that the kernel refused, with the reason and the
// remedy.
type Missing struct {
	Doing string // the operation
	Err   error  // the kernel's errno
	Why   string // what is missing
	Fix   string // what to type, or to give to a container
}

func (m *Missing) Error() string {
	return fmt.Sprintf("%s: %v: %s; fix: %s", m.Doing, m.Err, m.Why, m.Fix)
}

// Unwrap returns the errno.
func (m *Missing) Unwrap() error { return m.Err }

// Of is the Missing in err, or nil.
func Of(err error) *Missing {
	var m *Missing
	errors.As(err, &m)
	return m
}

// Capabilities that root in a container lacks by default (capabilities(7)).
const (
	NetAdmin = unix.CAP_NET_ADMIN
	SysAdmin = unix.CAP_SYS_ADMIN
)

var names = map[int]string{NetAdmin: "NET_ADMIN", SysAdmin: "SYS_ADMIN"}

// Has reports whether the calling thread has a capability in effect in its own
// user namespace.
func Has(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// Lacks is a Missing for a capability.
func Lacks(doing string, err error, capability int) *Missing {
	name := names[capability]
	m := &Missing{Doing: doing, Err: err, Why: "this process lacks CAP_" + name}
	m.Fix = "run toe as root"
	if os.Geteuid() == 0 {
		m.Fix = "give it to the container: --cap-add " + name + " (docker, podman)"
	}
	return m
}

// Namespaces explains an error of clone(2), unshare(2) or setns(2). An error
// that privileges have no part in is wrapped as it is. nil remains nil.
func Namespaces(doing string, err error) error {
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch errno {
	case unix.EPERM, unix.EACCES, unix.ENOSPC:
		return missingNamespaces(doing, errno)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func missingNamespaces(doing string, errno unix.Errno) *Missing {
	root := os.Geteuid() == 0
	if root && errno != unix.ENOSPC && !Has(SysAdmin) {
		m := Lacks(doing, errno, SysAdmin)
		m.Fix += ", or run toe as an ordinary user where user namespaces are allowed"
		return m
	}
	m := &Missing{Doing: doing, Err: errno}
	if m.Why, m.Fix = knob(root); m.Why != "" {
		return m
	}
	m.Why = "user namespaces are not allowed here"
	m.Fix = "run toe as root, or outside of the container or chroot that forbids them"
	switch {
	case filtered() && root:
		m.Why = "a seccomp filter forbids new namespaces"
		m.Fix = "start the container with --security-opt seccomp=unconfined"
	case filtered():
		m.Why = "a seccomp filter forbids user namespaces"
		m.Fix = "start the container with --security-opt seccomp=unconfined, " +
			"or with --cap-add SYS_ADMIN and toe as root"
	case root:
		m.Why = "a security module or a limit of this host forbids new namespaces"
		m.Fix = "in a container: --security-opt apparmor=unconfined; else see dmesg"
	}
	return m
}

// proc is proc(5), and another folder in tests.
var proc = "/proc"

// knob is the setting of this host that forbids namespaces, if one does. The
// first two are for ordinary users only.
func knob(root bool) (why, fix string) {
	if !root {
		for _, k := range [][2]string{
			{"kernel/apparmor_restrict_unprivileged_userns", "1"},
			{"kernel/unprivileged_userns_clone", "0"},
		} {
			if read("sys/"+k[0]) == k[1] {
				name := strings.ReplaceAll(k[0], "/", ".")
				allow := map[string]string{"0": "1", "1": "0"}[k[1]]
				return name + " is " + k[1], "sudo sysctl -w " + name + "=" + allow
			}
		}
	}
	for _, kind := range []string{"user", "mnt", "pid", "ipc", "uts", "net"} {
		if name := "max_" + kind + "_namespaces"; read("sys/user/"+name) == "0" {
			return "user." + name + " is 0", "sudo sysctl -w user." + name + "=10000"
		}
	}
	return "", ""
}

func read(path string) string {
	data, _ := os.ReadFile(filepath.Join(proc, path))
	return strings.TrimSpace(string(data))
}

// filtered reports whether a seccomp filter holds this thread (proc(5), Seccomp).
func filtered() bool {
	for line := range strings.Lines(read("thread-self/status")) {
		if mode, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(mode) == "2"
		}
	}
	return false
}
