package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const unitFile = "../../packaging/toe@.service"

// unit is the unit as make install writes it, with program in it.
func unit(t *testing.T, program string) string {
	data, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "@bindir@/toe", program)
}

// What the unit runs is what toe understands.
func TestUnitRunsVerbsThatExist(t *testing.T) {
	found := 0
	for line := range strings.Lines(unit(t, "toe")) {
		key, command, _ := strings.Cut(strings.TrimSpace(line), "=")
		if !strings.HasPrefix(key, "Exec") {
			continue
		}
		found++
		words := strings.Fields(strings.ReplaceAll(strings.TrimLeft(command, "-@:+!"), "%i", "edge"))
		if words[0] != "toe" {
			t.Fatalf("%s: runs %s", key, words[0])
		}
		cmd, args, err := rootCmd().Find(words[1:])
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil || !cmd.HasParent() {
			t.Errorf("%s=%s: %v", key, command, err)
		}
	}
	if found < 2 {
		t.Errorf("%d commands; want ExecStart and ExecStopPost", found)
	}
}

func TestSystemdTakesTheUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd is not installed")
	}
	path := filepath.Join(t.TempDir(), "toe@.service")
	if err := os.WriteFile(path, []byte(unit(t, "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
	switch {
	case strings.Contains(string(out), path):
		t.Errorf("%v\n%s", err, out)
	case err != nil:
		t.Skipf("systemd-analyze cannot be used here: %v: %s", err, out)
	}
}

// The service manager is notified once, and child processes do not get its socket.
func TestReadyIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	ready := notifier()
	if left := os.Getenv("NOTIFY_SOCKET"); left != "" {
		t.Errorf("children get NOTIFY_SOCKET=%s", left)
	}
	ready()
	_ = l.SetReadDeadline(time.Now().Add(5 * time.Second))
	got := make([]byte, 64)
	n, err := l.Read(got)
	if err != nil || string(got[:n]) != "READY=1" {
		t.Errorf("told %q, %v", got[:n], err)
	}
}
