package upgrade

import (
	"regexp"
	"strconv"
	"strings"
)

// Update is a package that an upgrade would install.
type Update struct {
	Name, From, To string // From is empty for a new package
	Origin         string // the first that has it, such as "Debian:13.2/stable"
	Security       bool
}

var instLine = regexp.MustCompile(`^Inst (\S+) (?:\[(\S+)\] )?\((\S+) ([^\[\)]*?)(?: \[[^\]]*\])?\)`)

// ParseSimulation reads what `apt-get --simulate` prints.
func ParseSimulation(text string) (updates []Update) {
	for line := range strings.Lines(text) {
		m := instLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		u := Update{Name: m[1], From: m[2], To: m[3]}
		for origin := range strings.SplitSeq(m[4], ", ") {
			if u.Origin == "" || isSecurity(origin) && !u.Security {
				u.Origin, u.Security = origin, isSecurity(origin)
			}
		}
		updates = append(updates, u)
	}
	return updates
}

// isSecurity reports whether an origin, LABEL:VERSION/SUITE, has security updates, as
// unattended-upgrades sees it for Debian.
func isSecurity(origin string) bool {
	label, release, _ := strings.Cut(origin, ":")
	_, suite, _ := strings.Cut(release, "/")
	return label == "Debian-Security" || strings.HasSuffix(suite, "-security")
}

var uriLine = regexp.MustCompile(`^'[^']*' \S+ ([0-9]+)`)

// DownloadSize adds up what `apt-get --print-uris` lists, in bytes.
func DownloadSize(text string) (total int64) {
	for line := range strings.Lines(text) {
		if m := uriLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[1], 10, 54)
			total += n
		}
	}
	return total
}

// Unhold returns dpkg's list of packages without the hold on the package Kernel.
func Unhold(status string) string {
	stanzas := strings.Split(status, "\n\n")
	for i, s := range stanzas {
		if strings.HasPrefix(s, "Package: "+Kernel+"\n") {
			stanzas[i] = strings.Replace(s, "\nStatus: hold ", "\nStatus: install ", 1)
		}
	}
	return strings.Join(stanzas, "\n\n")
}
