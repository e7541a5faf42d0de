package agent

import (
	"net/netip"
	"os"
	"strings"
)

// maxResolv is how many name servers the C library reads (resolv.conf(5)).
const maxResolv = 3

// resolvConf is /etc/resolv.conf for the card's own programs. They ask the
// upstreams directly: one step less that can fail.
func resolvConf(servers []netip.Addr, search []string) []byte {
	var b strings.Builder
	b.WriteString("# written by toe-agent\n")
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	for _, s := range servers[:min(len(servers), maxResolv)] {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	return []byte(b.String())
}

// writeResolv replaces the file whole: a program may read it at any moment.
func writeResolv(path string, servers []netip.Addr, search []string) error {
	next := path + ".new"
	if err := os.WriteFile(next, resolvConf(servers, search), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
