package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
)

// Each setting has its own files, and leaves none of another one.
func TestUpdatesFiles(t *testing.T) {
	dir := t.TempDir()
	e := &env{log: NewLog(os.Stderr), opts: Options{Service: true}, conf: &control.Config{}}
	p := newUpdatesPart(e)
	p.units, p.apt = filepath.Join(dir, "units"), filepath.Join(dir, "apt.conf.d/60toe-updates")
	var started, stopped []string
	p.reload = func(start, stop []string) error { started, stopped = start, stop; return nil }
	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	wants := func() (names []string) {
		entries, _ := os.ReadDir(filepath.Join(p.units, "timers.target.wants"))
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	now := feature.Updates{}
	for _, c := range []struct {
		next  feature.Updates
		wants []string
		check map[string]string // part of a file; "" is no file
	}{
		{feature.Updates{Packages: "security", Window: "02:00-04:00"}, debianTimers, map[string]string{
			"apt.conf.d/60toe-updates":                 "#clear Unattended-Upgrade::Origins-Pattern;",
			"units/apt-daily-upgrade.timer.d/toe.conf": "OnCalendar=\nOnCalendar=*-*-* 02:00:00 UTC\nRandomizedDelaySec=7200s\n",
			"units/toe-update.timer":                   "",
		}},
		{feature.Updates{Packages: "all", Image: "https://x.example/a%20b.raucb"}, []string{updateTimer}, map[string]string{
			"apt.conf.d/60toe-updates": "", "units/apt-daily-upgrade.timer.d/toe.conf": "",
			"units/toe-update.service": "ExecStart=/usr/sbin/toe-agent update --packages --image https://x.example/a%%20b.raucb\n",
			"units/toe-update.timer":   "OnCalendar=*-*-* 00:00:00 UTC\nRandomizedDelaySec=86400s\n",
		}},
		{feature.Updates{Packages: "none"}, nil, map[string]string{"units/toe-update.service": "", "units/toe-update.timer": ""}},
	} {
		steps, err := p.plan(&control.Config{Updates: now}, &control.Config{Updates: c.next})
		if err != nil || len(steps) != 1 {
			t.Fatalf("%+v: %v, %v", c.next, steps, err)
		}
		if err := steps[0].do(); err != nil {
			t.Fatal(err)
		}
		if got := wants(); !slices.Equal(got, slices.Sorted(slices.Values(c.wants))) {
			t.Errorf("%+v: timers %q, want %q", c.next, got, c.wants)
		}
		if !slices.Equal(started, c.wants) || len(started)+len(stopped) != 3 {
			t.Errorf("%+v: started %q, stopped %q", c.next, started, stopped)
		}
		for name, want := range c.check {
			if got := read(name); want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("%+v: %s is %q, want %q", c.next, name, got, want)
			}
		}
		now = c.next
	}
	e.opts.Service = false
	if _, err := p.plan(&control.Config{}, &control.Config{Updates: feature.Updates{Packages: "all"}}); err == nil {
		t.Error("a card without packages takes the setting")
	}
}
