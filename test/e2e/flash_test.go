package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// TestFlash walks through the life of a flash: signed bundles, the health check, the ways back.
func TestFlash(t *testing.T) {
	if os.Getenv("TOE_E2E_FULL") == "" {
		t.Skip("takes minutes: test/run full")
	}
	f := newFlashJourney(t)
	full := os.Getenv("TOE_E2E_FULL") != ""
	f.walk(t, []flashStep{
		{"up", (*flashJourney).up},
		{"what the administrator leaves", (*flashJourney).leave},
		{"Ctrl-C while a slot is written", (*flashJourney).interrupted},
		{"a signed bundle", (*flashJourney).update},
	})
	if full {
		f.walk(t, []flashStep{{"an older bundle of a server that breaks off", (*flashJourney).older}})
		f.run(t, quick, 0, "firmware", "rollback")
		f.onSlot(t, "B", false)
	}
	f.walk(t, []flashStep{
		{"the administrator's check fails", (*flashJourney).checkFails},
		{"a panic", (*flashJourney).panics},
		{"a person's reboot during the trial", (*flashJourney).reboots},
		{"rollback", (*flashJourney).rollback},
		{"factory reset", (*flashJourney).factory},
		{"rescue", (*flashJourney).rescue},
	})
	if full {
		f.walk(t, []flashStep{
			{"a hang", (*flashJourney).hangs},
			{"a network that is broken", (*flashJourney).noNetwork},
			{"an agent that crashes", (*flashJourney).agentCrashes},
			{"a slot that reboots", (*flashJourney).rebootLoop},
		})
	}
	f.run(t, time.Minute, 0, "down")
}

type flashStep struct {
	name string
	walk func(*flashJourney, *testing.T)
}

// flashJourney is a card of edition debian whose flash is changed.
type flashJourney struct {
	*journey
	keys, bundle string // folder, file
	machineID    string
	start        time.Duration // that a start took, until the card was healthy
	seen         int           // entries of the firmware history
	bad, good    string        // slots: on trial, and the one before
}

// needDebian skips a test without an image of edition debian.
func needDebian(t *testing.T) {
	t.Helper()
	_, err := firmware.Find(cache, firmware.Debian, machine.UML, arch.Host().Name)
	if errors.Is(err, firmware.ErrNotBuilt) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func newFlashJourney(t *testing.T) *flashJourney {
	t.Helper()
	needDebian(t)
	f := &flashJourney{journey: newJourney(t, kind{name: "uml", start: debianStart["uml"]})}
	text, err := os.ReadFile(filepath.Join(f.dir, "card.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.spec(t, "card.yaml", string(text)+"firmware: {edition: debian, flash: 2GiB, health_limit: 900}\n")
	f.makeKeys(t)
	return f
}

// makeKeys makes keys and a bundle.
func (f *flashJourney) makeKeys(t *testing.T) {
	t.Helper()
	f.keys, f.bundle = filepath.Join(f.dir, "keys"), filepath.Join(f.dir, "card.raucb")
	f.run(t, quick, 0, "firmware", "keys", "init", "--keys", f.keys, "--name", "Example")
	f.makeBundle(t, f.bundle, "2.0.0")
}

// trust makes the card accept the keys. The image was built without them; the administrator's keyring
// takes the place of the image's.
func (f *flashJourney) trust(t *testing.T) {
	t.Helper()
	f.onCard(t, "mkdir -p /data/rauc")
	f.run(t, debianQuick["uml"], 0, "cp", filepath.Join(f.keys, "keyring.pem"), "card0:/data/rauc/keyring.pem")
}

func (f *flashJourney) makeBundle(t *testing.T, path, version string) {
	t.Helper()
	f.run(t, time.Minute, 0, "firmware", "bundle", "--keys", f.keys, "--machine", "uml", "--version", version, "-o", path)
}

func (f *flashJourney) walk(t *testing.T, steps []flashStep) {
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.walk(f, t) }) {
			t.Fatalf("the rest of the journey starts with what %q leaves; history: %s", step.name,
				f.run(t, quick, 0, "firmware", "history").out)
		}
	}
}

func (f *flashJourney) up(t *testing.T) {
	began := time.Now()
	f.journey.up(t)
	f.start = time.Since(began)
	f.trust(t)
}

func (f *flashJourney) onCard(t *testing.T, command string) string {
	t.Helper()
	return strings.TrimSpace(f.run(t, debianQuick["uml"], 0, "ssh", "card0", "--", command).out)
}

// onSlot waits until a slot runs and is good and healthy, or is on trial.
func (f *flashJourney) onSlot(t *testing.T, slot string, trial bool) {
	t.Helper()
	f.await(t, "card0", 2*f.kind.start, "slot "+slot, func(st status.Status) error {
		if st.Firmware.Slot != slot || st.Firmware.Trial != trial || !trial && st.State != status.Healthy {
			return fmt.Errorf("slot %q, trial %v, %s %v", st.Firmware.Slot, st.Firmware.Trial, st.State, st.Reasons)
		}
		return nil
	})
}

// sshd waits for it: systemd starts it after the link is up.
func (f *flashJourney) sshd(t *testing.T) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(f.kind.start); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		var r result
		if r, last = f.try(debianQuick["uml"], nil, "ssh", "card0", "--", "true"); last == nil && r.status == 0 {
			return
		}
	}
	t.Fatalf("no ssh within %v: %v", f.kind.start, last)
}

func (f *flashJourney) history(t *testing.T) []status.FirmwareEvent {
	t.Helper()
	var events []status.FirmwareEvent
	out := f.run(t, quick, 0, "firmware", "history", "--json").out
	if err := json.Unmarshal([]byte(out), &events); err != nil {
		t.Fatal(err)
	}
	return events
}

// next waits for an entry of a kind after those that were seen, and returns it.
func (f *flashJourney) next(t *testing.T, what string, limit time.Duration) (e status.FirmwareEvent) {
	t.Helper()
	until(t, limit, "an entry "+what+" in the firmware history", func() error {
		time.Sleep(100 * time.Millisecond)
		events := f.history(t)
		at := slices.IndexFunc(events[f.seen:], func(e status.FirmwareEvent) bool { return e.What == what })
		if at < 0 {
			return fmt.Errorf("%d entries, %d are new", len(events), len(events)-f.seen)
		}
		e = events[f.seen+at]
		f.seen += at + 1
		return nil
	})
	return e
}

func (f *flashJourney) leave(t *testing.T) {
	f.machineID = f.onCard(t, `cat /etc/machine-id
		echo mine >/etc/mine; echo mine >/root/mine; echo mine >/usr/local/bin/mine; sync`)
	if len(f.machineID) != 32 {
		t.Errorf("machine id %q", f.machineID)
	}
	env := f.onCard(t, "fw_printenv")
	if !slices.Contains(strings.Split(env, "\n"), "BOOT_ORDER=A B") || !strings.Contains(env, "BOOT_A_LEFT=3") {
		t.Errorf("fw_printenv: %q", env)
	}
}

// kept checks that what the administrator left is there.
func (f *flashJourney) kept(t *testing.T) {
	t.Helper()
	if got, want := f.onCard(t, "cat /etc/machine-id /etc/mine /root/mine /usr/local/bin/mine"),
		f.machineID+"\nmine\nmine\nmine"; got != want {
		t.Errorf("after the update: %q, want %q", got, want)
	}
}

// network is what the host has of the card.
func (f *flashJourney) hostNetwork(t *testing.T) string {
	t.Helper()
	return ip(t, "-n", f.netns, "-br", "addr", "show", "toe0") + ip(t, "-n", f.netns, "link", "show", "toe0") +
		ip(t, "-n", f.netns, "route") + ip(t, "-n", f.netns, "-6", "route")
}

// update installs a bundle. The host's interface, addresses and routes stay.
func (f *flashJourney) update(t *testing.T) {
	before := f.hostNetwork(t)
	run := f.begin(t, "firmware", "install", "card0", f.bundle, "--json")
	if e := f.next(t, "installed", 3*f.kind.start); e.Slot != "B" || e.Who == "" || !strings.Contains(e.Why, f.bundle) {
		t.Errorf("installed: %+v", e)
	}
	p, s := startProbe(t, f.netns), startStream(t, f.netns) // the card goes on while its services stop
	k := startKnock(t, f.netns)
	status := run.wait(t, 2*f.kind.start)
	out, said := run.text()
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, said)
	}
	var got struct {
		Slot    string  `json:"slot"`
		Started bool    `json:"started"`
		Install float64 `json:"install_seconds"`
		Outage  float64 `json:"outage_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	p.answers(t, quick)
	s.breaks(t) // the card has lost its half of the connection
	t.Logf("installed in %.1f s, no answer for %.2f s, no datagram from the world for %.2f s, no new connection for %.2f s",
		got.Install, got.Outage, time.Duration(p.gap.Load()).Seconds(), k.gap(t).Seconds())
	if got.Slot != "B" || !got.Started || got.Outage < 0.1 {
		t.Errorf("install: %s", out)
	}
	if after := f.hostNetwork(t); after != before {
		t.Errorf("the host's network before: %s\nafter: %s", before, after)
	}
	if e := f.next(t, "good", quick); e.Slot != "B" || e.Who != "card" {
		t.Errorf("good: %+v", e)
	}
	f.onSlot(t, "B", false)
	f.kept(t)
	f.bulk(t)
	env := f.onCard(t, "fw_printenv")
	if !strings.Contains(env, "BOOT_B_GOOD=") || !strings.Contains(env, "BOOT_B_LEFT=3") || !strings.Contains(env, "BOOT_ORDER=B A") {
		t.Errorf("fw_printenv: %q", env)
	}
}

// breaks puts a unit that runs a script into the slot that does not run, and starts that slot on trial,
// with one attempt. The environment is then as RAUC leaves it. An empty script breaks nothing.
func (f *flashJourney) breaks(t *testing.T, script string) {
	t.Helper()
	f.good = f.status(t, "card0").Firmware.Slot
	f.bad = strings.Trim("AB", f.good)
	f.onCard(t, `set -e
		slot=A; lower=a; other=B
		grep -q rauc.slot=A /proc/cmdline && { slot=B; lower=b; other=A; }
		mount PARTLABEL=rootfs-$lower /mnt
		cd /mnt/usr/lib/systemd/system
		printf '[Unit]\nDefaultDependencies=no\nAfter=toe-agent.service\n[Service]\nExecStart=/bin/sh /usr/lib/toe/bad\n' >bad.service
		cat >/mnt/usr/lib/toe/bad <<'EOF'
`+script+`
EOF
		ln -sf ../bad.service sysinit.target.wants/
		cd /; umount /mnt
		printf 'BOOT_ORDER=%s\nBOOT_%s_LEFT=1\nBOOT_%s_GOOD=\nBOOT_%s_SPARED=\n' "$slot $other" $slot $slot $slot | fw_setenv -s -
		sync`)
	f.seen = len(f.history(t))
	f.run(t, quick, 0, "reset")
}

// failed waits for the end of the trial, and for the good slot to run again. It returns the reason.
func (f *flashJourney) failed(t *testing.T) status.FirmwareEvent {
	t.Helper()
	if e := f.next(t, "started", f.kind.start); e.Slot != f.bad || !strings.Contains(e.Why, "on trial") {
		t.Errorf("started: %+v", e)
	}
	failed := f.next(t, "failed", f.kind.start)
	if failed.Slot != f.bad {
		t.Errorf("failed: %+v", failed)
	}
	back := f.next(t, "fell-back", f.kind.start)
	if back.Slot != f.good || !strings.Contains(back.Why, failed.Why) {
		t.Errorf("fell back: %+v", back)
	}
	if !slices.ContainsFunc(f.status(t, "card0").History, func(e status.Event) bool {
		return strings.Contains(e.Text, "back from slot "+f.bad+" to slot "+f.good) && strings.Contains(e.Text, failed.Why)
	}) {
		t.Error("no event says why")
	}
	f.onSlot(t, f.good, false)
	return failed
}

// limit sets how long a slot on trial may take.
func (f *flashJourney) limit(t *testing.T, seconds int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "card.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := f.spec(t, "limit.yaml", strings.Replace(string(text), "health_limit: 900", fmt.Sprint("health_limit: ", seconds), 1))
	f.run(t, quick, 0, "apply", "-f", path)
}

// enough is how many seconds a slot needs to pass all checks but the one that fails, on this host now.
func (f *flashJourney) enough() int { return 20 + int(2*f.start.Seconds()) }

func (f *flashJourney) checkFails(t *testing.T) {
	f.onCard(t, `printf '#!/bin/sh\n[ -e /data/open ] || { echo the gate is shut; exit 3; }\n' >/data/health.d/50-gate
		chmod +x /data/health.d/50-gate`)
	f.limit(t, f.enough())
	f.breaks(t, "")
	e := f.failed(t)
	if e.Check != "check 50-gate" || e.Output != "the gate is shut" || !strings.Contains(e.Why, "50-gate: exit status 3") || e.Console == "" {
		t.Errorf("failed: %+v", e)
	}
	f.kept(t)
}

func (f *flashJourney) panics(t *testing.T) {
	f.breaks(t, "echo c >/proc/sysrq-trigger")
	if e := f.failed(t); !strings.Contains(e.Why, "panicked") || !strings.Contains(e.Console, "panic") {
		t.Errorf("failed: %+v", e)
	}
}

// hangs: the agent runs, and does not answer.
func (f *flashJourney) hangs(t *testing.T) {
	f.breaks(t, "pkill -STOP toe-agent")
	if e := f.failed(t); !strings.Contains(e.Why, "the agent has not answered for") {
		t.Errorf("failed: %+v", e)
	}
}

// noNetwork: the agent answers over the link, and the port's interface is down again and again.
func (f *flashJourney) noNetwork(t *testing.T) {
	f.limit(t, f.enough())
	f.breaks(t, "while :; do ip link set wan down; sleep 0.1; done")
	if e := f.failed(t); e.Check != "check wan" {
		t.Errorf("failed: %+v", e)
	}
}

// agentCrashes: systemd starts the agent again each time.
func (f *flashJourney) agentCrashes(t *testing.T) {
	f.breaks(t, "while :; do pkill -SEGV toe-agent; sleep 0.1; done")
	if e := f.failed(t); !strings.Contains(e.Why, "the agent has not answered for") && !strings.Contains(e.Why, "not healthy within") {
		t.Errorf("failed: %+v", e)
	}
}

// rebootLoop: a slot that restarts itself before its verdict, and not in good order.
func (f *flashJourney) rebootLoop(t *testing.T) {
	f.breaks(t, "exec reboot -ff")
	if e := f.failed(t); !strings.Contains(e.Why, "the card rebooted before it was healthy") {
		t.Errorf("failed: %+v", e)
	}
}

// reboots: a person's reboot before the verdict costs no attempt.
func (f *flashJourney) reboots(t *testing.T) {
	f.limit(t, 900)
	f.breaks(t, "")
	f.next(t, "started", f.kind.start)
	f.onSlot(t, "A", true)
	f.sshd(t)
	before := f.status(t, "card0").Machine.PID
	_, _ = f.try(debianQuick["uml"], nil, "ssh", "card0", "--timeout", "5s", "--", "reboot")
	f.await(t, "card0", f.kind.start, "another machine", func(st status.Status) error {
		if st.Machine.PID == 0 || st.Machine.PID == before {
			return fmt.Errorf("machine %d", st.Machine.PID)
		}
		return nil
	})
	f.onSlot(t, "A", true) // the only attempt was given back
	f.sshd(t)
	f.onCard(t, "touch /data/open")
	f.onSlot(t, "A", false)
	if good := f.next(t, "good", quick); good.Slot != "A" || good.Who != "card" {
		t.Errorf("good: %+v", good)
	}
	f.kept(t)
}

func (f *flashJourney) rollback(t *testing.T) {
	f.run(t, quick, 0, "firmware", "rollback")
	if e := f.next(t, "rollback", f.kind.start); e.Slot != "B" || e.Who == "" {
		t.Errorf("rollback: %+v", e)
	}
	f.onSlot(t, "B", false)
	f.kept(t)
}

func (f *flashJourney) factory(t *testing.T) {
	f.run(t, f.kind.start, 0, "reset", "--factory")
	f.next(t, "factory-reset", f.kind.start)
	f.onSlot(t, "B", false)
	got := f.onCard(t, "ls /etc/mine /root/mine /data/open 2>/dev/null; cat /data/version /etc/machine-id")
	if strings.Contains(got, "mine") || strings.Contains(got, "open") || strings.Contains(got, f.machineID) {
		t.Errorf("after the factory reset: %q", got)
	}
	out := f.run(t, quick, 0, "firmware", "status", "card0").out
	if !strings.Contains(out, "A     good") || !strings.Contains(out, "B     good") {
		t.Errorf("slots after the factory reset: %s", out)
	}
}

// rescue: both slots are bad. The card has its link and ssh, and says why.
func (f *flashJourney) rescue(t *testing.T) {
	f.onCard(t, "printf 'BOOT_A_LEFT=0\nBOOT_B_LEFT=0\n' | fw_setenv -s -; sync")
	f.run(t, quick, 0, "reset")
	if e := f.next(t, "rescue", f.kind.start); !strings.Contains(e.Why, "slot B: marked bad") {
		t.Errorf("rescue: %+v", e)
	}
	f.await(t, "card0", f.kind.start, "the rescue system", func(st status.Status) error {
		if st.Firmware.Edition != "micro" || st.State != status.Degraded ||
			!strings.Contains(strings.Join(st.Reasons, ";"), "slot A: marked bad") {
			return fmt.Errorf("edition %s, %s %v", st.Firmware.Edition, st.State, st.Reasons)
		}
		return nil
	})
	if out := f.onCard(t, "cat /etc/os-release"); !strings.Contains(out, "micro") {
		t.Errorf("/etc/os-release: %q", out)
	}
	f.exec(t)
	f.run(t, quick, 0, "firmware", "rollback", "--slot", "A")
	f.next(t, "rollback", f.kind.start)
	f.onSlot(t, "A", false)
}
