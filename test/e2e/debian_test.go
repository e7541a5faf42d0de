package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// debianStart bounds `toe up` of edition debian, which returns when sshd listens. Beside busy loops
// systemd takes ten times as long as alone.
var debianStart = map[string]time.Duration{"uml": 3 * time.Minute, "tcg": 8 * time.Minute}

// debianQuick bounds a command on such a card.
var debianQuick = map[string]time.Duration{"uml": 20 * time.Second, "tcg": 2 * time.Minute}

// TestDebianEdition does what an administrator does with a card of edition debian.
func TestDebianEdition(t *testing.T) {
	debianJourney(t, "uml", []debianStep{
		{"up", (*debian).up},
		{"systemd has started all units", (*debian).settled},
		{"exec", func(d *debian, t *testing.T) { d.exec(t) }},
		{"ssh", func(d *debian, t *testing.T) { d.ssh(t) }},
		{"bulk data both ways", func(d *debian, t *testing.T) { d.bulk(t) }},
		{"capture", func(d *debian, t *testing.T) { d.captures(t) }},
		{"UDP", (*debian).udp},
		{"apply", (*debian).apply},
		{"the agent is killed", (*debian).killAgent},
		{"packages and bill of materials", (*debian).packages},
		{"a file stays over a reboot", (*debian).reboot},
		{"a damaged root", (*debian).damaged},
	})
}

// TestDebianEditionTCG is the same on QEMU's translator, where systemd takes a minute: the link does
// not.
func TestDebianEditionTCG(t *testing.T) {
	if os.Getenv("TOE_E2E_FULL") == "" {
		t.Skip("takes minutes: test/run full")
	}
	debianJourney(t, "tcg", []debianStep{
		{"up", (*debian).up},
		{"exec", func(d *debian, t *testing.T) { d.exec(t) }},
		{"systemd has started all units", (*debian).settled},
	})
}

type debian struct{ *journey }

type debianStep struct {
	name string
	walk func(*debian, *testing.T)
}

func debianJourney(t *testing.T, name string, steps []debianStep) {
	k := kind{name: name, start: debianStart[name]}
	if _, err := firmware.Find(cache, firmware.Debian, machine.Kind(name), arch.Host().Name); errors.Is(err, firmware.ErrNotBuilt) {
		t.Skip(err) // test/run full builds that of tcg
	} else if err != nil {
		t.Fatal(err)
	}
	d := &debian{newJourney(t, k)}
	path := filepath.Join(d.dir, "card.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.spec(t, "card.yaml", string(text)+"firmware: {edition: debian, health_limit: 900}\n")
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.walk(d, t) }) {
			t.Fatalf("the rest of the journey starts with a card that %q leaves healthy", step.name)
		}
	}
	d.run(t, time.Minute, 0, "down")
}

func (d *debian) up(t *testing.T) {
	d.journey.up(t)
	if d.card.Firmware.Edition != "debian" {
		t.Errorf("edition %q", d.card.Firmware.Edition)
	}
}

func (d *debian) onCard(t *testing.T, words ...string) string {
	t.Helper()
	return d.run(t, debianQuick[d.kind.name], 0, append([]string{"ssh", "card0", "--"}, words...)...).out
}

// settled waits for systemd. The card of 256 MiB has room for its administrator's programs then.
func (d *debian) settled(t *testing.T) {
	limit := d.kind.start
	r, err := d.try(limit, nil, "ssh", "card0", "--", "systemctl is-system-running --wait; systemctl --failed --no-legend")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(r.out) != "running" {
		t.Errorf("systemctl is-system-running: %s", r)
	}
	fields := strings.Fields(d.onCard(t, "grep -E ^Mem /proc/meminfo"))
	total, _ := strconv.Atoi(fields[1])
	free, _ := strconv.Atoi(fields[7]) // MemAvailable
	if total-free > 90<<10 || total > 256<<10 {
		t.Errorf("%d KiB of %d KiB in use", total-free, total)
	}
	t.Logf("%d of %d MiB in use; %s", (total-free)>>10, total>>10,
		strings.TrimSpace(d.onCard(t, "systemd-analyze time | head -1")))
	// The agent is the service's process, and no other writes its interfaces' settings.
	for what, want := range map[string]string{
		"systemctl show -P ActiveState toe-agent":               "active",
		"sysctl -n net.ipv4.conf.pci0.rp_filter":                "1",
		"ps -o args= -p $(systemctl show -P MainPID toe-agent)": "/usr/sbin/toe-agent early",
		"modprobe ext4 && echo built in":                        "built in",
	} {
		if got := strings.TrimSpace(d.onCard(t, what)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

func (d *debian) udp(t *testing.T) {
	c, err := dialIn(d.netns, "udp", net.JoinHostPort(worldAddr, "7"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 2000)
	if _, err := c.Write(make([]byte, 1400)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || n != 1400 {
		t.Errorf("echo of a datagram: %d bytes, %v", n, err)
	}
}

// apply changes the keys that may log in, and publishes nothing else.
func (d *debian) apply(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(d.dir, "card.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	path := d.spec(t, "with-key.yaml", string(text)+"ssh: {authorized_keys: ["+key+"]}\n")
	d.run(t, quick, 0, "apply", "-f", path)
	if keys := d.onCard(t, "cat /run/toe/ssh/authorized_keys"); !strings.Contains(keys, key) {
		t.Errorf("after apply: %q", keys)
	}
}

// killAgent: systemd starts another agent, which takes over what the killed one left. The ssh session
// over the link stays.
func (d *debian) killAgent(t *testing.T) {
	const kill = `kill -9 $(systemctl show -P MainPID toe-agent)
		until [ "$(systemctl show -P NRestarts -P ActiveState toe-agent | tr '\n' ' ')" = "active 1 " ] ||
			[ "$(systemctl show -P NRestarts -P ActiveState toe-agent | tr '\n' ' ')" = "1 active " ]; do sleep 0.1; done
		ps -o args= -p $(systemctl show -P MainPID toe-agent)`
	if got := strings.TrimSpace(d.onCard(t, kill)); got != "/usr/sbin/toe-agent serve" {
		t.Errorf("the service's process is %q", got)
	}
	d.await(t, "card0", d.kind.start, "a healthy card", func(st status.Status) error {
		if st.State != status.Healthy || st.Offload.Mode != "endpoint" {
			return fmt.Errorf("state %s %v", st.State, st.Reasons)
		}
		return nil
	})
	d.exec(t)
}

// packages: dpkg on the card knows what the bill of materials of the image names, and our packages.
func (d *debian) packages(t *testing.T) {
	var bill struct {
		Packages []struct {
			Name    string `json:"name"`
			Version string `json:"versionInfo"`
		} `json:"packages"`
	}
	out := d.run(t, quick, 0, "firmware", "sbom", "--machine", d.kind.name).out
	if err := json.Unmarshal([]byte(out), &bill); err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, p := range bill.Packages {
		listed = append(listed, p.Name+" "+p.Version)
	}
	installed := strings.Split(strings.TrimSpace(d.onCard(t, `dpkg-query -W -f '${Package} ${Version}\n'`)), "\n")
	slices.Sort(listed)
	slices.Sort(installed)
	if !slices.Equal(listed, installed) {
		t.Errorf("bill of materials: %q\ndpkg: %q", listed, installed)
	}
	if n := len(installed); n < 100 || !strings.Contains(strings.Join(installed, "\n"), "toe-agent ") {
		t.Errorf("%d packages: %q", n, installed)
	}
}

func (d *debian) reboot(t *testing.T) {
	d.onCard(t, "echo kept > /etc/kept && sync")
	before := d.status(t, "card0")
	if _, err := d.try(quick, nil, "ssh", "--", "reboot"); err != nil {
		t.Fatal(err)
	}
	d.await(t, "card0", d.kind.start, "the card to be back", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == before.Machine.PID || st.Machine.PID == 0 {
			return fmt.Errorf("machine %d, state %s %v", st.Machine.PID, st.State, st.Reasons)
		}
		return nil
	})
	if got := strings.TrimSpace(d.onCard(t, "cat /etc/kept")); got != "kept" {
		t.Errorf("/etc/kept after a reboot: %q", got)
	}
	for _, e := range d.status(t, "card0").History {
		if strings.Contains(e.Text, "did not power itself off") {
			t.Errorf("%s", e.Text)
		}
	}
}

// flash opens the card's flash.
func (d *debian) flash(t *testing.T) (*os.File, flash.Table) {
	t.Helper()
	disk, err := os.OpenFile(filepath.Join(d.dir, "state", "card0", "flash.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := flash.Read(disk, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return disk, table
}

// slotImage reads the image of a slot. The file is its source.
func (d *debian) slotImage(t *testing.T, slot string) (*os.File, *firmware.Image) {
	t.Helper()
	disk, table := d.flash(t)
	img, err := firmware.OpenSlot(table.Find(flash.Slot(slot).Boot()).Reader(disk), d.dir)
	if err != nil {
		t.Fatal(err)
	}
	return disk, img
}

// damaged overwrites the beginning of the root. The card comes up as micro, with its link and ssh,
// and says why.
func (d *debian) damaged(t *testing.T) {
	d.run(t, time.Minute, 0, "down")
	disk, table := d.flash(t)
	defer disk.Close()
	if _, err := disk.WriteAt(make([]byte, 1<<20), table.Find(flash.A.Root()).Offset); err != nil {
		t.Fatal(err)
	}
	d.run(t, d.kind.start, 3, "up", "card0") // degraded
	now := d.status(t, "card0")
	if now.State != status.Degraded || !strings.Contains(strings.Join(now.Reasons, "; "), "root PARTLABEL=rootfs-a: mount") {
		t.Errorf("state %s, %q", now.State, now.Reasons)
	}
	if out := d.onCard(t, "cat /etc/os-release"); !strings.Contains(out, "micro") {
		t.Errorf("/etc/os-release: %q", out)
	}
}
