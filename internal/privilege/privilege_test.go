package privilege

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// without runs f on a thread without a capability, which ends afterwards.
func without(t *testing.T, capability int, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		data[capability/32].Effective &^= 1 << (capability % 32)
		if err = errors.Join(err, unix.Capset(&header, &data[0])); err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestTheCapabilityIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root without a capability takes root")
	}
	without(t, SysAdmin, func() {
		if Has(SysAdmin) {
			t.Error("Has(SysAdmin) after it was dropped")
		}
		err := Namespaces("new namespace", unix.Unshare(unix.CLONE_NEWNET))
		m := Of(fmt.Errorf("wrapped: %w", err))
		if m == nil {
			t.Errorf("%v is no Missing", err)
			return
		}
		want := "new namespace: operation not permitted: this process lacks CAP_SYS_ADMIN; " +
			"fix: give it to the container: --cap-add SYS_ADMIN (docker, podman)"
		if !strings.HasPrefix(m.Error(), want) || !errors.Is(err, unix.EPERM) {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

func TestOtherErrorsAreLeftAlone(t *testing.T) {
	if err := Namespaces("x", nil); err != nil {
		t.Error(err)
	}
	for _, err := range []error{fs.ErrClosed, unix.ENOMEM} {
		got := Namespaces("x", err)
		if Of(got) != nil || !errors.Is(got, err) || got.Error() != "x: "+err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// The setting that forbids namespaces is named, with the line that changes it.
func TestKnob(t *testing.T) {
	defer func(before string) { proc = before }(proc)
	const apparmor = "sys/kernel/apparmor_restrict_unprivileged_userns"
	for _, c := range []struct {
		file, text string
		root       bool
		fix        string
	}{
		{apparmor, "1\n", false, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{apparmor, "1\n", true, ""},
		{apparmor, "0\n", false, ""},
		{"sys/kernel/unprivileged_userns_clone", "0\n", false,
			"sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"sys/user/max_net_namespaces", "0\n", true, "sudo sysctl -w user.max_net_namespaces=10000"},
		{"sys/user/max_user_namespaces", "0\n", false, "sudo sysctl -w user.max_user_namespaces=10000"},
		{"sys/user/max_user_namespaces", "31000\n", false, ""},
	} {
		proc = t.TempDir()
		path := filepath.Join(proc, c.file)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(c.text), 0o644))
		if err != nil {
			t.Fatal(err)
		}
		if why, fix := knob(c.root); fix != c.fix || (why == "") != (fix == "") {
			t.Errorf("%s %s, root %v: %q %q, want %q", c.file, c.text, c.root, why, fix, c.fix)
		}
	}
}

func TestASeccompFilterIsNamed(t *testing.T) {
	defer func(before string) { proc = before }(proc)
	for mode, want := range map[string]bool{"0": false, "2": true} {
		proc = t.TempDir()
		status := filepath.Join(proc, "thread-self", "status")
		err := errors.Join(os.Mkdir(filepath.Dir(status), 0o755),
			os.WriteFile(status, []byte("Name:\tx\nSeccomp:\t"+mode+"\n"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
		if filtered() != want {
			t.Errorf("mode %s: filtered %v", mode, !want)
		}
	}
}
