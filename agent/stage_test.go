package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/control"
)

func TestRootDevice(t *testing.T) {
	for cmdline, want := range map[string]string{
		"quiet root=PARTLABEL=rootfs-a rauc.slot=A\n": "PARTLABEL=rootfs-a",
		"root=/dev/vda root=/dev/vdb":                 "/dev/vdb", // the last one counts, as in the kernel
		"quiet nfsroot=x toe.root=y":                  "",
		"mem=64M root=98:0":                           "", // added by User-Mode Linux
		"root=":                                       "",
		"":                                            "",
	} {
		if got := rootDevice(cmdline); got != want {
			t.Errorf("rootDevice(%q) = %q, want %q", cmdline, got, want)
		}
	}
}

// rootOf makes a root with these files; one that ends in * may not be executed, and a target makes a
// link.
func rootOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, to := range files {
		mode := os.FileMode(0o755)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o644
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to != "" {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte("#!"), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheckRoot(t *testing.T) {
	for _, c := range []struct {
		name      string
		files     map[string]string
		init, err string
	}{
		{"Debian", map[string]string{
			"sbin": "usr/sbin", "usr/sbin/init": "../lib/systemd/systemd", "usr/lib/systemd/systemd": "", "usr/sbin/toe-agent": "",
		}, "/usr/lib/systemd/systemd", ""},
		{"an init of its own", map[string]string{"sbin/init": "", "usr/sbin/toe-agent": ""}, "/sbin/init", ""},
		{"empty", nil, "", "sbin/init"},
		{"no systemd", map[string]string{"sbin/init": "../lib/systemd/systemd", "usr/sbin/toe-agent": ""}, "", "sbin/init"},
		{"no agent", map[string]string{"sbin/init": ""}, "", "toe-agent"},
		{"agent not executable", map[string]string{"sbin/init": "", "usr/sbin/toe-agent*": ""}, "", "want a program"},
		{"out of the root", map[string]string{"sbin/init": "../../../../bin/sh", "usr/sbin/toe-agent": ""}, "", "sbin/init"},
	} {
		init, err := checkRoot(rootOf(t, c.files))
		if init != c.init || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.name, init, err, c.init, c.err)
		}
	}
}

// The host's files come to memory with the rights that keys need.
func TestHandOver(t *testing.T) {
	from, to := rootOf(t, map[string]string{"card.json": "", "keys/server.key": ""}), filepath.Join(t.TempDir(), "toe")
	if err := handOver(from, to); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(to, "keys", "server.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", st, err)
	}
	if err := handOver(filepath.Join(from, "missing"), to); err == nil {
		t.Error("a missing folder is handed over")
	}
}

func TestListensOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	if !listensOn(port) {
		t.Errorf("a listener on port %d is not seen", port)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if listensOn(port) {
		t.Errorf("a closed listener on port %d is seen", port)
	}
}

// sshd gets the host's keys and those of card.yaml, and the card is not healthy before it listens.
func TestSSHDPart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ssh")
	conf := &control.Config{AuthorizedKeys: []string{"ssh-ed25519 AAAA one"}}
	e := &env{opts: Options{Keys: control.Keys{SSHHostKey: []byte("secret")}}, conf: conf}
	s, err := newSSHDPart(e, dir)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if read("host_key") != "secret" || read("authorized_keys") != "ssh-ed25519 AAAA one\n" {
		t.Errorf("host key %q, authorized keys %q", read("host_key"), read("authorized_keys"))
	}
	if st, err := os.Stat(filepath.Join(dir, "host_key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("host key: %v, %v", st, err)
	}
	next := &control.Config{AuthorizedKeys: []string{"ssh-ed25519 BBBB two", "ssh-ed25519 CCCC three"}}
	steps, err := s.plan(conf, next)
	if err != nil || len(steps) != 1 || steps[0].do() != nil || !strings.Contains(read("authorized_keys"), "three\n") {
		t.Errorf("%v, %v: %q", steps, err, read("authorized_keys"))
	}
	if steps[0].undo() != nil || strings.Contains(read("authorized_keys"), "two") {
		t.Errorf("taken back: %q", read("authorized_keys"))
	}
	up := false
	s.listens = func() bool { return up }
	if h := s.health(); h[0].state != starting {
		t.Errorf("before sshd listens: %v", h)
	}
	s.since = s.since.Add(-sshdGrace)
	if h := s.health(); h[0].state != degraded {
		t.Errorf("sshd does not come: %v", h)
	}
	up = true
	if h := s.health(); h[0].state != healthy {
		t.Errorf("sshd listens: %v", h)
	}
}

// Without systemd a service says what is missing.
func TestNotifyWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err == nil {
		t.Error("no error without NOTIFY_SOCKET")
	}
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
