package store

import (
	"net/netip"

	"github.com/toe-project/toe/internal/atomicfile"
)

// Used is an address range that somebody has, and who.
type Used struct {
	Prefix netip.Prefix
	By     string
}

func takenBy(used []Used) func(netip.Prefix) string {
	return func(p netip.Prefix) string {
		for _, u := range used {
			if u.Prefix.Overlaps(p) {
				return u.By
			}
		}
		return ""
	}
}

// othersPrefixes are the link prefixes of the other cards, and the host's
// addresses and routes.
func (c *Card) othersPrefixes(host []Used) ([]Used, error) {
	names, err := c.Dirs.List()
	if err != nil {
		return nil, err
	}
	var used []Used
	own := map[netip.Prefix]bool{}
	for _, name := range names {
		var l Links
		if atomicfile.ReadJSON(c.Dirs.Card(name).Links(), &l) != nil {
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
					used = append(used, Used{p, "card " + name})
				}
			}
		}
	}
	for _, u := range host {
		if !own[u.Prefix] {
			used = append(used, u)
		}
	}
	return used, nil
}
