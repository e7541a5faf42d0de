package card

import (
	"net/netip"

	"github.com/toe-project/toe/internal/atomicfile"
)

// usedPrefix is an address range that somebody has, and who.
type usedPrefix struct {
	prefix netip.Prefix
	by     string
}

func takenBy(used []usedPrefix) func(netip.Prefix) string {
	return func(p netip.Prefix) string {
		for _, u := range used {
			if u.prefix.Overlaps(p) {
				return u.by
			}
		}
		return ""
	}
}

// othersPrefixes are the link prefixes of the other cards, and the host's
// addresses and routes.
func (c *Card) othersPrefixes(host []usedPrefix) ([]usedPrefix, error) {
	names, err := c.dirs.List()
	if err != nil {
		return nil, err
	}
	var used []usedPrefix
	own := map[netip.Prefix]bool{}
	for _, name := range names {
		var l Links
		if atomicfile.ReadJSON(c.dirs.Card(name).Links(), &l) != nil {
			continue // never started
		}
		for _, a := range []*LinkAddrs{l.Link, l.Exec} {
			if a == nil {
				continue
			}
			for _, p := range a.Host() {
				if name == c.Name {
					own[p] = true
				} else {
					used = append(used, usedPrefix{p, "card " + name})
				}
			}
		}
	}
	for _, u := range host {
		if !own[u.prefix] {
			used = append(used, u)
		}
	}
	return used, nil
}
