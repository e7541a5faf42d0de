package control

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ServicesDir has a folder for each service of a card, in its memory.
const ServicesDir = "/run/toe/service"

// UnitDropIn is a file of a service that adds to its unit (systemd.unit(5)). A file with the name of
// the unit is the unit itself.
const UnitDropIn = "unit.conf"

// Bounds of services.
const (
	MaxServices     = 32
	MaxServiceFiles = 32
	maxServicePorts = 16
	maxCommand      = 64
)

// Service is a program that the card runs: a unit of systemd, with the files that the host has
// rendered for it.
type Service struct {
	Name     string        `json:"name"`
	Packages []string      `json:"packages,omitempty"` // of Debian
	Unit     string        `json:"unit"`
	Files    []ServiceFile `json:"files,omitempty"`
	Check    []string      `json:"check,omitempty"`  // command that accepts the files
	Reload   []string      `json:"reload,omitempty"` // command; none: the unit is restarted
	Probe    []string      `json:"probe,omitempty"`  // command that succeeds when the service works
	Ports    []ServicePort `json:"ports,omitempty"`
	// Hide are secrets of the files, which the card leaves out of what it says.
	Hide []string `json:"hide,omitempty"`
}

// ServiceFile is a file in the service's folder.
type ServiceFile struct {
	Name   string `json:"name"`
	Text   string `json:"text"`
	Secret bool   `json:"secret,omitempty"` // mode 0600, else 0644
	Owner  string `json:"owner,omitempty"`  // a user of the card; root if empty
}

// ServicePort is a port that a service listens on.
type ServicePort struct {
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`
	From     []string `json:"from,omitempty"` // ports of the card behind which it is reached
}

func (p ServicePort) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Port) }

var (
	servicePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	unitPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@_.-]{0,99}\.(service|socket|timer|target)$`)
	filePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@_.-]{0,99}$`)
	packageName    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
)

// CheckServiceName returns why a name cannot be a service's.
func CheckServiceName(s string) error {
	if !servicePattern.MatchString(s) {
		return fmt.Errorf("%q: want a lower-case letter and up to 31 letters, digits and dashes", s)
	}
	return nil
}

// CheckUnit returns why a name cannot be a unit's.
func CheckUnit(s string) error {
	if !unitPattern.MatchString(s) {
		return fmt.Errorf("%q: want the name of a unit, such as chrony.service", s)
	}
	return nil
}

// CheckFileName returns why a name cannot be that of a service's file.
func CheckFileName(s string) error {
	if !filePattern.MatchString(s) {
		return fmt.Errorf("file %q: want letters, digits, dots, dashes and underscores", s)
	}
	return nil
}

// services checks Config.Services.
func (v *validator) services(c *Config) {
	v.count("services", len(c.Services), 0, MaxServices)
	names, units, taken := map[string]bool{}, map[string]string{}, map[string]string{}
	for _, p := range c.Publish {
		taken[ServicePort{Protocol: p.Protocol, Port: p.Port}.String()] = "publish"
	}
	for i := range c.Services {
		s := &c.Services[i]
		at := fmt.Sprintf("services[%d]", i)
		if names[s.Name] {
			v.bad(at+".name", "%q: duplicate name", s.Name)
		}
		if other, ok := units[s.Unit]; ok {
			v.bad(at+".unit", "%q is the unit of service %s, too", s.Unit, other)
		}
		names[s.Name], units[s.Unit] = true, s.Name
		v.service(at, s, c)
		for _, p := range s.Ports {
			if other, ok := taken[p.String()]; ok {
				v.bad(at+".ports", "service %s: %s is taken by %s", s.Name, p, other)
			}
			taken[p.String()] = "service " + s.Name
		}
	}
}

func (v *validator) service(at string, s *Service, c *Config) {
	if err := CheckServiceName(s.Name); err != nil {
		v.bad(at+".name", "%w", err)
	}
	if err := CheckUnit(s.Unit); err != nil {
		v.bad(at+".unit", "%w", err)
	}
	for _, p := range s.Packages {
		if !packageName.MatchString(p) {
			v.bad(at+".packages", "%q: want the name of a Debian package", p)
		}
	}
	v.count(at+".files", len(s.Files), 0, MaxServiceFiles)
	for _, f := range s.Files {
		if err := CheckFileName(f.Name); err != nil {
			v.bad(at+".files", "%w", err)
		}
		if f.Owner != "" && !servicePattern.MatchString(strings.TrimPrefix(f.Owner, "_")) {
			v.bad(at+".files", "owner %q: want the name of a user", f.Owner)
		}
	}
	for _, command := range [][]string{s.Check, s.Reload, s.Probe} {
		v.count(at+": words of a command", len(command), 0, maxCommand)
	}
	v.count(at+".ports", len(s.Ports), 0, maxServicePorts)
	for _, p := range s.Ports {
		if p.Protocol != TCP && p.Protocol != UDP || p.Port == 0 {
			v.bad(at+".ports", "%q %d: want tcp or udp, and 1 to 65535", p.Protocol, p.Port)
		}
		for _, from := range p.From {
			if !slices.ContainsFunc(c.Ports, func(q Port) bool { return q.Name == from }) {
				v.bad(at+".ports", "%q: want the name of one of ports", from)
			}
		}
	}
}
