package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/toe-project/toe/internal/atomicfile"
)

// Used is an address range that is in use.
type Used struct {
	Prefix netip.Prefix
	By     string // what uses it, for messages
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
		err := atomicfile.ReadJSON(c.Dirs.Card(name).Links(), &l)
		if errors.Is(err, fs.ErrNotExist) {
			continue // never started
		}
		if err != nil { // its addresses would be given away
			return nil, fmt.Errorf("addresses of card %s: %w", name, err)
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
