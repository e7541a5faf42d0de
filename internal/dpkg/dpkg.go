// Package dpkg reads dpkg's list of packages, /var/lib/dpkg/status.
package dpkg

import (
	"fmt"
	"slices"
	"strings"
)

// Package is an installed package.
type Package struct {
	Name, Version, Arch   string
	Source, SourceVersion string // of what it was built
	Maintainer, Homepage  string
}

// Parse reads dpkg's list of packages, and returns those that are installed, by name.
func Parse(text []byte) ([]Package, error) {
	var all []Package
	for stanza := range strings.SplitSeq(string(text), "\n\n") {
		f := fields(stanza)
		if len(f) == 0 || !strings.HasSuffix(f["Status"], " installed") {
			continue
		}
		p := Package{
			Name: f["Package"], Version: f["Version"], Arch: f["Architecture"],
			Source: f["Package"], SourceVersion: f["Version"], Maintainer: f["Maintainer"], Homepage: f["Homepage"],
		}
		if p.Name == "" || p.Version == "" || p.Arch == "" {
			return nil, fmt.Errorf("dpkg's list of packages: %.60q has no name, version or architecture", stanza)
		}
		if name, version, _ := strings.Cut(f["Source"], " "); name != "" {
			p.Source = name
			if version = strings.Trim(version, "()"); version != "" {
				p.SourceVersion = version
			}
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("dpkg's list of packages has none that is installed")
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// fields parses one paragraph of "Name: value". Continuation lines are left out.
func fields(stanza string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(stanza) {
		name, value, ok := strings.Cut(line, ":")
		if ok && name != "" && name[0] != ' ' && name[0] != '\t' {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}
