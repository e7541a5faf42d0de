package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/internal/cli"
)

// packagesLimit bounds the card's answer about its packages. Apt takes seconds on a card without KVM, and
// a slow mirror longer.
const packagesLimit = 5 * time.Minute

// addPackages asks a running card for its packages. Where it has no answer the slots are shown all the same.
func addPackages(ctx context.Context, c *store.Card, st *status.Flash, refresh bool) {
	ctx, cancel := context.WithTimeout(ctx, packagesLimit)
	defer cancel()
	var err error
	st.Packages, err = update.Packages(ctx, c, refresh)
	switch {
	case errors.Is(err, client.ErrNotRunning):
		st.Unknown = "the card is not running"
	case err != nil:
		st.Unknown = err.Error()
	}
}

func printPackages(out cli.Visible, st status.Flash) {
	p := st.Packages
	if p == nil {
		fmt.Fprintf(out, "packages: %s\n", st.Unknown)
		return
	}
	fmt.Fprintf(out, "packages: %d, against the image as flashed %d added, %d removed, %d of another version\n",
		p.Installed, p.Added, p.Removed, p.Upgraded)
	for _, c := range p.Changes {
		switch {
		case c.From == "":
			fmt.Fprintf(out, "  + %s %s\n", c.Name, c.To)
		case c.To == "":
			fmt.Fprintf(out, "  - %s %s\n", c.Name, c.From)
		default:
			fmt.Fprintf(out, "  %s %s -> %s\n", c.Name, c.From, c.To)
		}
	}
	more(out, p.Added+p.Removed+p.Upgraded-len(p.Changes))
	if p.Lists.IsZero() {
		fmt.Fprintf(out, "updates: not known, the card has read no list of a mirror; `toe firmware status --refresh %s`\n", st.Name)
		return
	}
	var origins []string
	for _, o := range slices.Sorted(maps.Keys(p.Origins)) {
		origins = append(origins, fmt.Sprintf("%d from %s", p.Origins[o], o))
	}
	from := ""
	if len(origins) > 0 {
		from = ": " + strings.Join(origins, ", ")
	}
	fmt.Fprintf(out, "updates: %d pending, %d of them security%s; lists of %s\n",
		p.Pending, p.Security, from, p.Lists.Local().Format(time.DateTime))
	for _, u := range p.Updates {
		word := ""
		if u.Security {
			word = " (security)"
		}
		fmt.Fprintf(out, "  %s %s -> %s%s\n", u.Name, u.From, u.To, word)
	}
	more(out, p.Pending-len(p.Updates))
}

func more(out cli.Visible, n int) {
	if n > 0 {
		fmt.Fprintf(out, "  and %d more\n", n)
	}
}
