package hostnet

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

const resolvPath = "/etc/resolv.conf"

// resolvMark begins the first line of each resolv.conf that a card puts into
// the place of the host's; the card's name follows.
const resolvMark = "# written by toe for card "

// oldResolvMark is that line as toe once wrote it, without the name of the card.
const oldResolvMark = "# written by toe; put back when the card goes down"

// resolvText is the host's resolv.conf while a card has its default route.
func resolvText(card string, servers []netip.Addr, search []string) []byte {
	return append([]byte(resolvMark+card+"; put back when it goes down\n"), ResolvConf(servers, search)...)
}

// markOf is the card that put a resolv.conf there, or "".
func markOf(path string) (card string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line == oldResolvMark {
		return "of an older version of toe"
	}
	if line, found := strings.CutPrefix(line, resolvMark); found {
		card, _, _ = strings.Cut(line, ";")
	}
	return card
}

// ResolvConf is a resolv.conf that asks servers.
func ResolvConf(servers []netip.Addr, search []string) []byte {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	return []byte(b.String())
}
