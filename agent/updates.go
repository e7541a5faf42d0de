package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
)

// updatesPart has systemd do what card.yaml says of updates: Debian's own timers and unattended-upgrades
// for the packages of the running slot, a timer of ours for all else. Its files are in /run, so that a card
// without the setting has nothing of them; only unattended-upgrades reads a file of /etc.
type updatesPart struct {
	idle
	*env
	units string // folder of systemd's units of this run
	apt   string // file of apt's configuration
	// reload has systemd read its units again, and starts or stops timers.
	reload func(start, stop []string) error
}

const (
	runUnits = "/run/systemd/system"
	// aptUpdates comes after 50unattended-upgrades of the package.
	aptUpdates = "/etc/apt/apt.conf.d/60toe-updates"
	// updateTimer is the unit of ours.
	updateTimer = "toe-update.timer"
)

// debianTimers read the lists and install updates.
var debianTimers = []string{"apt-daily.timer", "apt-daily-upgrade.timer"}

func newUpdatesPart(e *env) *updatesPart {
	p := &updatesPart{env: e, units: runUnits, apt: aptUpdates}
	p.reload = p.reloadSystemd
	return p
}

func (p *updatesPart) start(context.Context) {
	if !p.opts.Service {
		return
	}
	// systemd starts after the agent, and reads the files then. An agent that systemd started again finds
	// its own files.
	if err := p.write(p.config().Updates); err != nil {
		p.log.Sayf("updates: %v", err)
	}
}

func (p *updatesPart) plan(now, next *control.Config) ([]step, error) {
	if now.Updates == next.Updates {
		return nil, nil
	}
	if !p.opts.Service {
		return nil, errors.New("updates: this card has no packages and no slots; want firmware of edition debian")
	}
	set := func(u feature.Updates) func() error {
		return func() error {
			if err := p.write(u); err != nil {
				return err
			}
			start, stop := timersOf(u)
			return p.reload(start, stop)
		}
	}
	return []step{{"updates", set(next.Updates), set(now.Updates)}}, nil
}

// timersOf splits the timers into those that run and those that do not.
func timersOf(u feature.Updates) (start, stop []string) {
	security := u.Packages == feature.UpdatesSecurity
	for _, name := range debianTimers {
		if security {
			start = append(start, name)
		} else {
			stop = append(stop, name)
		}
	}
	if u.Packages == feature.UpdatesAll || u.Image != "" {
		return append(start, updateTimer), stop
	}
	return start, append(stop, updateTimer)
}

// files are those of a setting, by path.
func (p *updatesPart) files(u feature.Updates) map[string]string {
	calendar, delay := u.Window.Timer()
	timer := fmt.Sprintf("[Timer]\nOnCalendar=%s\nRandomizedDelaySec=%s\nFixedRandomDelay=yes\nAccuracySec=1s\nPersistent=no\n", calendar, delay)
	out := map[string]string{}
	if u.Packages == feature.UpdatesSecurity {
		out[p.apt] = aptSecurity
		for _, name := range debianTimers {
			// An empty assignment takes Debian's own times away.
			out[filepath.Join(p.units, name+".d", "toe.conf")] = strings.Replace(timer, "[Timer]\n", "[Timer]\nOnCalendar=\n", 1)
		}
		// Each timer has a moment of its own in the window. The second reads the lists before.
		out[filepath.Join(p.units, "apt-daily-upgrade.service.d", "toe.conf")] = "[Unit]\nWants=apt-daily.service\nAfter=apt-daily.service\n"
	}
	var words []string
	if u.Packages == feature.UpdatesAll {
		words = append(words, "--packages")
	}
	if u.Image != "" {
		words = append(words, "--image", strings.ReplaceAll(string(u.Image), "%", "%%"))
	}
	if len(words) > 0 {
		out[filepath.Join(p.units, updateTimer)] = "[Unit]\nDescription=updates of this card by card.yaml\n\n" + timer
		out[filepath.Join(p.units, strings.TrimSuffix(updateTimer, ".timer")+".service")] =
			"[Unit]\nDescription=update of this card\n\n[Service]\nType=oneshot\nExecStart=" + agentProgram + " update " + strings.Join(words, " ") + "\n"
	}
	return out
}

// aptSecurity has unattended-upgrades install security updates only, each day.
const aptSecurity = `// The agent writes this file, from "updates" of card.yaml.
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern {
	"origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
};
`

// write makes the files of a setting, and removes those of another one.
func (p *updatesPart) write(u feature.Updates) error {
	files := p.files(u)
	wants := filepath.Join(p.units, "timers.target.wants")
	start, stop := timersOf(u)
	var errs []error
	for _, path := range []string{
		p.apt, filepath.Join(p.units, updateTimer), filepath.Join(p.units, "toe-update.service"),
		filepath.Join(p.units, debianTimers[0]+".d/toe.conf"), filepath.Join(p.units, debianTimers[1]+".d/toe.conf"),
		filepath.Join(p.units, "apt-daily-upgrade.service.d/toe.conf"),
	} {
		text, ok := files[path]
		if !ok {
			errs = append(errs, removeFile(path))
			continue
		}
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	for _, name := range slices.Concat(start, stop) {
		link, target := filepath.Join(wants, name), filepath.Join("/usr/lib/systemd/system", name)
		if name == updateTimer {
			target = filepath.Join(p.units, name)
		}
		errs = append(errs, removeFile(link))
		if slices.Contains(start, name) {
			errs = append(errs, os.MkdirAll(wants, 0o755), os.Symlink(target, link))
		}
	}
	return errors.Join(errs...)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *updatesPart) reloadSystemd(start, stop []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	for _, words := range [][]string{{"daemon-reload"}, append([]string{"stop"}, stop...), append([]string{"restart"}, start...)} {
		if words[0] != "daemon-reload" && len(words) == 1 {
			continue
		}
		if words[0] == "stop" {
			// A timer that has no unit now is not running.
			_, _ = p.output(ctx, "systemctl", words...)
			continue
		}
		if out, err := p.output(ctx, "systemctl", words...); err != nil {
			return fmt.Errorf("systemctl %s: %w: %.300s", strings.Join(words, " "), err, out)
		}
	}
	return nil
}

func (p *updatesPart) output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return partOf[*installPart](p.env).output(ctx, name, args...)
}
