package feature

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Values of Updates.Packages.
const (
	UpdatesNone     = "none"
	UpdatesSecurity = "security"
	UpdatesAll      = "all"
)

// Updates is what a card of edition debian does by itself, once a day.
type Updates struct {
	Packages string    `yaml:"packages,omitempty" json:"packages,omitempty" enum:"none|security|all" doc:"security: unattended-upgrades installs Debian's security updates into the running slot; all: the card upgrades all packages in its other slot and restarts into it, as toe firmware upgrade does" default:"none"`
	Image    BundleURL `yaml:"image,omitempty" json:"image,omitempty" doc:"http or https URL of a signed bundle; the card installs it when its version is later than its own, and restarts" absent:"none"`
	Window   Window    `yaml:"window,omitempty" json:"window,omitempty" doc:"when that begins, such as 02:00-04:00, in UTC; each card has a moment of its own in it, every day the same" absent:"the whole day"`
}

// IsZero reports whether the card does nothing by itself.
func (u Updates) IsZero() bool {
	return (u.Packages == "" || u.Packages == UpdatesNone) && u.Image == ""
}

// BundleURL is where a bundle is.
type BundleURL string

// Problem is what is wrong with the URL, or nil.
func (u BundleURL) Problem() error {
	if u == "" {
		return nil
	}
	_, host, ok := strings.Cut(string(u), "://")
	if !ok || host == "" || strings.HasPrefix(host, "/") || !strings.HasPrefix(string(u), "http://") && !strings.HasPrefix(string(u), "https://") ||
		strings.ContainsFunc(string(u), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\%$`, r) && r != '%' }) {
		return errors.New("not an http or https URL such as https://updates.example/card.raucb")
	}
	return nil
}

// Window is a time of the day, "02:00-04:00" in UTC. It may go over midnight; empty is the whole day.
type Window string

// Problem is what is wrong with the window, or nil.
func (w Window) Problem() error {
	_, _, err := w.parse()
	return err
}

func (w Window) parse() (from, length time.Duration, err error) {
	const day = 24 * time.Hour
	if w == "" {
		return 0, day, nil
	}
	first, last, ok := strings.Cut(string(w), "-")
	a, err1 := time.Parse("15:04", first)
	b, err2 := time.Parse("15:04", last)
	if !ok || err1 != nil || err2 != nil || len(w) != len("00:00-00:00") || a.Equal(b) {
		return 0, 0, errors.New("not two different times with a dash, such as 02:00-04:00")
	}
	length = b.Sub(a)
	if length < 0 {
		length += day
	}
	return time.Duration(a.Hour())*time.Hour + time.Duration(a.Minute())*time.Minute, length, nil
}

// Timer is the window as a timer of systemd has it (systemd.timer(5)): when it begins, and how long it is.
func (w Window) Timer() (calendar, delay string) {
	from, length, _ := w.parse()
	return fmt.Sprintf("*-*-* %02d:%02d:00 UTC", int(from.Hours()), int(from.Minutes())%60), fmt.Sprintf("%ds", int(length.Seconds()))
}
