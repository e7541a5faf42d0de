package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/flash"
)

// SelfUpdate is what the timer of `updates` in card.yaml runs. It installs the bundle at image when that
// is later than the one of the running slot, else it upgrades the packages, where packages is set. After a
// change it restarts the card; the health checks decide whether the new slot stays.
func SelfUpdate(ctx context.Context, out io.Writer, packages bool, image string) error {
	var failed error
	if image != "" {
		done, err := updateImage(ctx, out, image)
		if done {
			return err
		}
		failed = err // a server that is gone keeps no package from its update
	}
	if packages {
		return errors.Join(failed, AdminUpgrade(ctx, out, true))
	}
	return failed
}

func updateImage(ctx context.Context, out io.Writer, url string) (done bool, err error) {
	text, err := exec.CommandContext(ctx, raucProgram, "info", "--output-format=json", url).Output()
	if err != nil {
		return false, fmt.Errorf("rauc info %s: %w", url, err)
	}
	offered, err := bundleVersion(text)
	if err != nil {
		return false, fmt.Errorf("rauc info %s: %w", url, err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, err
	}
	record, _ := os.ReadFile(raucSlots) // a slot as flashed is in no record
	slot := slotOf(string(cmdline))
	if now := recordedVersion(string(record), slot); !isLater(offered, now) {
		_, err := fmt.Fprintf(out, "%s has version %s, this card runs %s\n", url, offered, now)
		return false, err
	}
	if offered == recordedVersion(string(record), slot.Other()) {
		_, err := fmt.Fprintf(out, "%s has version %s, which was installed and is not what runs: it failed, or an administrator went back\n",
			url, offered)
		return false, err
	}
	if text, err := exec.CommandContext(ctx, raucProgram, "install", url).CombinedOutput(); err != nil {
		return false, fmt.Errorf("rauc install %s: %w: %s", url, err, text[max(0, len(text)-500):])
	}
	unix.Sync() // fw_setenv leaves the environment in memory
	_, _ = fmt.Fprintf(out, "version %s is installed; restarting\n", offered)
	_, err = adminClient(adminSocket).Reboot(ctx, &cardpb.RebootRequest{})
	return true, err
}

// bundleVersion reads what `rauc info` prints of a bundle whose signature it has checked.
func bundleVersion(text []byte) (string, error) {
	var info struct {
		Version string `json:"version"`
	}
	// RAUC's messages come before it.
	at := strings.IndexByte(string(text), '{')
	if at < 0 || json.Unmarshal(text[at:], &info) != nil || info.Version == "" {
		return "", fmt.Errorf("%.200q: want JSON with a version", text)
	}
	return info.Version, nil
}

// recordedVersion is that of the bundle in a slot; empty where it was flashed.
func recordedVersion(record string, s flash.Slot) string {
	in := ""
	for line := range strings.Lines(record) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(line, "[]")
		} else if value, ok := strings.CutPrefix(line, "bundle.version="); ok && in == "slot.rootfs."+raucIndex(s) {
			return value
		}
	}
	return ""
}

// isLater compares versions number by number, as RAUC does. Anything is later than no version.
func isLater(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		if n, m := number(x, i), number(y, i); n != m {
			return n > m
		}
	}
	return false
}

// number is -1 for what is none.
func number(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, err := strconv.Atoi(parts[i])
	if err != nil || n < 0 {
		return -1
	}
	return n
}
