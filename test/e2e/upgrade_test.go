package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/update"
)

// upgradeLimit bounds `toe firmware upgrade` on uml: a copy of the root, apt, and a start. Beside busy
// loops it takes ten times as long as alone.
const upgradeLimit = 6 * time.Minute

// TestUpgrade is an administrator's life with the packages of a card: install one, upgrade with a way back,
// unattended security updates, rollback.
func TestUpgrade(t *testing.T) {
	if os.Getenv("TOE_E2E_FULL") == "" {
		t.Skip("takes minutes: test/run full")
	}
	u := &upgrading{t: t}
	debianJourney(t, "uml", []debianStep{
		{"up", (*debian).up},
		{"apt install", u.install},
		{"status names what is pending", u.pending},
		{"Ctrl-C leaves the running slot", u.interrupt},
		{"upgrade", u.upgrade},
		{"nothing is newer", u.nothing},
		{"unattended upgrade", u.unattended},
		{"rollback", u.rollback},
	})
}

// onCard is a command on the card that may wait for the disk, behind the copy of a root.
func (u *upgrading) onCard(d *debian, t *testing.T, script string) string {
	t.Helper()
	return d.run(t, 2*time.Minute, 0, "ssh", "card0", "--", script).out
}

type upgrading struct {
	t          *testing.T // of the whole journey
	repository *repository
}

// greet is a package with a configuration file and a user of its own.
func (u *upgrading) greet(t *testing.T, version string) {
	u.repository.add(t, stable, "toe-greet", version, map[string]string{
		"usr/share/toe-greet/version": version + "\n", "etc/toe-greet.conf": "greeting = " + version + "\n",
		"etc/toe-greet.d/other.conf": "other = " + version + "\n",
		"DEBIAN/conffiles":           "/etc/toe-greet.conf\n/etc/toe-greet.d/other.conf\n",
		"DEBIAN/postinst":            "#!/bin/sh\nset -e\nuseradd -r greet-" + strings.ReplaceAll(version, ".", "-") + "\n",
	})
}

func (u *upgrading) install(d *debian, t *testing.T) {
	u.repository = newRepository(u.t, d.world)
	u.greet(t, "1.0")
	u.repository.add(t, security, "toe-patch", "1.0", map[string]string{"usr/share/toe-patch": "1.0\n"})
	d.run(t, time.Minute, 0, "ssh", "card0", "--", u.repository.use()+`
		apt-get -qq -y install toe-greet toe-patch
		echo "# of the administrator" >> /etc/toe-greet.conf
		echo kept > /etc/kept; echo kept > /root/kept; echo kept > /srv/kept; echo kept > /var/lib/kept`)
}

// firmware is what `toe firmware status` prints.
func (d *debian) firmware(t *testing.T, flags ...string) (st status.Flash) {
	t.Helper()
	r := d.run(t, 2*time.Minute, 0, append([]string{"firmware", "status", "card0", "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(r.out), &st); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	if st.Packages == nil {
		t.Fatalf("no packages: %s", st.Unknown)
	}
	return st
}

func (u *upgrading) pending(d *debian, t *testing.T) {
	u.greet(t, "2.0")
	u.repository.add(t, security, "toe-patch", "1.1", map[string]string{"usr/share/toe-patch": "1.1\n"})
	u.newKernel(d, t)
	if p := d.firmware(t).Packages; p.Pending != 0 || p.Added != 2 || p.Removed != 0 || p.Upgraded != 0 ||
		!slices.Contains(p.Changes, status.PackageChange{Name: "toe-greet", To: "1.0"}) {
		t.Errorf("before the lists are read again: %+v", p)
	}
	p := d.firmware(t, "--refresh").Packages
	want := []status.PackageUpdate{
		{Name: "toe-greet", From: "1.0", To: "2.0", Origin: "Debian:13/trixie"},
		{Name: "toe-kernel", From: u.kernelNow(d, t), To: "99.1", Origin: "Debian:13/trixie"},
		{Name: "toe-patch", From: "1.0", To: "1.1", Origin: "Debian-Security:13/trixie-security", Security: true},
	}
	slices.SortFunc(p.Updates, func(a, b status.PackageUpdate) int { return strings.Compare(a.Name, b.Name) })
	if p.Pending != 3 || p.Security != 1 || !slices.Equal(p.Updates, want) || p.Origins["Debian:13/trixie"] != 2 ||
		time.Since(p.Lists) > time.Hour {
		t.Errorf("after: %+v", p)
	}
}

func (u *upgrading) kernelNow(d *debian, t *testing.T) string {
	return strings.TrimSpace(u.onCard(d, t, `dpkg-query -W -f '${Version}' toe-kernel`))
}

// newKernel publishes the card's own kernel with some bytes behind it, as another version.
func (u *upgrading) newKernel(d *debian, t *testing.T) {
	const build = `set -e
		mkdir -p /var/tmp/k/DEBIAN && cd /var/tmp/k
		dpkg -L toe-kernel | while read f; do if [ -f "$f" ]; then mkdir -p ".${f%/*}"; cp "$f" ".$f"; fi; done
		echo another >> usr/lib/toe/boot/kernel
		dpkg -s toe-kernel | sed -e '/^Status/d' -e '/^Conffiles/d' -e 's/^Version: .*/Version: 99.1/' > DEBIAN/control
		dpkg-deb -Znone --build . /var/tmp/toe-kernel.deb
		cd / && rm -rf /var/tmp/k`
	d.run(t, time.Minute, 0, "ssh", "card0", "--", build)
	d.run(t, time.Minute, 0, "cp", "card0:/var/tmp/toe-kernel.deb", filepath.Join(u.repository.pool(t, stable), "toe-kernel.deb"))
	u.onCard(d, t, "rm /var/tmp/toe-kernel.deb")
	u.repository.publish(t, stable)
}

// slots are the states of slots A and B, and which is the first.
func slots(st status.Flash) string {
	var words []string
	for _, s := range st.Slots {
		word := s.Name + " " + s.State
		if s.Primary {
			word += " first"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func (u *upgrading) interrupt(d *debian, t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), upgradeLimit)
	defer cancel()
	cmd := d.command(ctx, "firmware", "upgrade", "card0")
	var said bytes.Buffer
	cmd.Stderr = &said
	before := u.onCard(d, t, "cat /etc/passwd; dpkg-query -W; cat /proc/mounts")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, 2*time.Minute, "the copy of the root", func() error {
		if out := u.onCard(d, t, "pgrep -f '^/bin/cp -a --one' || true"); strings.TrimSpace(out) == "" {
			return fmt.Errorf("no cp runs")
		}
		return nil
	})
	// Another one is refused meanwhile.
	if r := d.run(t, time.Minute, 1, "firmware", "upgrade", "-q", "card0"); !strings.Contains(r.err, "refused: another update is running") {
		t.Errorf("a second upgrade: %s", r)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGINT) && code != -1 {
		t.Errorf("exit status %d: %s", code, said.String())
	}
	until(t, time.Minute, "the end of the upgrade on the card", func() error {
		if out := u.onCard(d, t, "pgrep -f '^/usr/sbin/toe-agent upgrade-worker' || true"); strings.TrimSpace(out) != "" {
			return fmt.Errorf("process %s", out)
		}
		return nil
	})
	if after := u.onCard(d, t, "cat /etc/passwd; dpkg-query -W; cat /proc/mounts"); after != before {
		t.Errorf("the running slot has changed: %s\nbefore: %s", after, before)
	}
	if got := slots(d.firmware(t)); got != "A good first, B broken" && got != "A good first, B bad" {
		t.Errorf("slots after Ctrl-C: %s", got)
	}
}

func (u *upgrading) upgrade(d *debian, t *testing.T) {
	r := d.run(t, upgradeLimit, 0, "firmware", "upgrade", "card0", "--json")
	var did update.Upgraded
	if err := json.Unmarshal([]byte(r.out), &did); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	t.Logf("upgrade of %d packages %.1f s, no answer for %.2f s", did.Packages, did.Seconds, did.Outage)
	if did.Slot != "B" || !did.Started || did.Packages != 3 || !slices.Contains(did.Changes, "toe-greet 1.0 -> 2.0") ||
		!regexp.MustCompile(`^[0-9.]+-[0-9a-f]{10}$`).MatchString(did.Version) {
		t.Errorf("%+v", did)
	}
	st := d.firmware(t)
	if got := slots(st); got != "A good, B good first" {
		t.Errorf("slots: %s", got)
	}
	if p := st.Packages; p.Pending != 0 || p.Added != 2 || p.Upgraded != 1 {
		t.Errorf("packages: %+v", p)
	}
	u.versions(d, t, "2.0", "1.1")
	// The kernel that runs is that of the package, and it is held again.
	digest := strings.Fields(u.onCard(d, t, "sha256sum /usr/lib/toe/boot/kernel"))[0]
	if got := d.kernelOf(t, "B"); got != digest {
		t.Errorf("slot B has kernel %s, the package %s", got, digest)
	}
	if a := d.kernelOf(t, "A"); a == digest {
		t.Error("slot A has the same kernel")
	}
	if held := strings.TrimSpace(u.onCard(d, t, "apt-mark showhold")); held != "toe-kernel" {
		t.Errorf("held: %q", held)
	}
	if left := strings.TrimSpace(u.onCard(d, t, "ls -d /usr/sbin/policy-rc.d /var/lib/toe/etc.merged 2>/dev/null || true; systemctl --failed --no-legend")); left != "" {
		t.Errorf("left: %s", left)
	}
	history := d.run(t, quick, 0, "firmware", "history", "card0").out
	if !strings.Contains(history, "upgraded slot B") || !strings.Contains(history, "toe-greet 1.0 -> 2.0") {
		t.Errorf("history: %s", history)
	}
}

// versions checks the test's packages, their configuration, and the administrator's files.
func (u *upgrading) versions(d *debian, t *testing.T, greet, patch string) {
	t.Helper()
	for what, want := range map[string]string{
		"cat /usr/share/toe-greet/version":                          greet,
		"cat /etc/toe-greet.d/other.conf":                           "other = " + greet,
		"cat /usr/share/toe-patch":                                  patch,
		"cat /etc/toe-greet.conf":                                   "greeting = 1.0\n# of the administrator",
		"cat /etc/kept /root/kept":                                  "kept\nkept",
		"cat /srv/kept /var/lib/kept":                               "kept\nkept",
		"dpkg --audit":                                              "",
		"dpkg-query -W -f '${Version}' toe-greet":                   greet,
		"getent passwd greet-2-0 >/dev/null && echo yes || echo no": map[string]string{"1.0": "no", "2.0": "yes"}[greet],
	} {
		if got := strings.TrimSpace(u.onCard(d, t, what)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// kernelOf returns the digest of a slot's kernel, from the manifest on the flash.
func (d *debian) kernelOf(t *testing.T, slot string) string {
	t.Helper()
	f, img := d.slotImage(t, slot)
	defer f.Close()
	for _, m := range img.Members {
		if m.Name == "kernel" {
			return m.SHA256
		}
	}
	t.Fatalf("slot %s has no kernel", slot)
	return ""
}

func (u *upgrading) nothing(d *debian, t *testing.T) {
	if r := d.run(t, time.Minute, 0, "firmware", "upgrade", "-q", "card0"); !strings.Contains(r.out, "no package is newer") {
		t.Errorf("%s", r)
	}
	if got := slots(d.firmware(t)); got != "A good, B good first" {
		t.Errorf("slots: %s", got)
	}
}

// unattended: Debian's own configuration takes the update of the security suite, and not the other one.
func (u *upgrading) unattended(d *debian, t *testing.T) {
	u.repository.add(t, security, "toe-patch", "1.2", map[string]string{"usr/share/toe-patch": "1.2\n"})
	u.repository.add(t, stable, "toe-other", "1.0", map[string]string{"usr/share/toe-other": "1.0\n"})
	d.run(t, 2*time.Minute, 0, "ssh", "card0", "--", "apt-get -q update && unattended-upgrade -v")
	u.versions(d, t, "2.0", "1.2")
}

func (u *upgrading) rollback(d *debian, t *testing.T) {
	before := d.status(t, "card0")
	d.run(t, quick, 0, "firmware", "rollback", "card0")
	d.await(t, "card0", d.kind.start, "slot A", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == before.Machine.PID || st.Firmware.Slot != "A" {
			return fmt.Errorf("slot %q, state %s %v", st.Firmware.Slot, st.State, st.Reasons)
		}
		return nil
	})
	u.versions(d, t, "1.0", "1.0")
	if _, err := os.Stat(filepath.Join(d.dir, "state", "card0", "flash.img")); err != nil {
		t.Error(err)
	}
}
