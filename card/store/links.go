package store

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"reflect"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/atomicfile"
)

// Links are the names and addresses that are the card's own on its host
// (links.json).
type Links struct {
	Interface string     `json:"interface,omitempty"` // the host's name of the link
	Link      *LinkAddrs `json:"link,omitempty"`
	Exec      *LinkAddrs `json:"exec,omitempty"`
}

// Reserve gives the card its links' addresses, unlike those of other cards and
// those in host. It keeps the card's old ones unless they were taken in the
// meantime.
func (c *Card) Reserve(host []Used) (Links, error) {
	all, err := c.Dirs.Lock()
	if err != nil {
		return Links{}, err
	}
	defer all.Release()
	var had Links
	if err := atomicfile.ReadJSON(c.Paths.Links(), &had); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Links{}, err
	}
	others, err := c.othersPrefixes(host)
	if err != nil {
		return Links{}, err
	}
	got, err := c.chooseLinks(had, others)
	if err != nil {
		return Links{}, err
	}
	if reflect.DeepEqual(got, had) {
		return got, nil
	}
	return got, atomicfile.WriteJSON(c.Paths.Links(), got)
}

func (c *Card) chooseLinks(had Links, others []Used) (Links, error) {
	taken := takenBy(others)
	var got Links
	pick := func(link string, want4, want6 spec.Prefix, had *LinkAddrs) (*LinkAddrs, error) {
		if had != nil {
			want4 = keep(want4, had.IPv4, taken)
			want6 = keep(want6, had.IPv6, taken)
		}
		a, err := chooseAddrs(c.Name, link, want4, want6, taken)
		return &a, err
	}
	var err error
	if Privileged() {
		got.Interface = had.Interface
		if got.Link, err = pick("link", c.Spec.Link.IPv4, c.Spec.Link.IPv6, had.Link); err != nil {
			return got, err
		}
		if !c.Spec.Link.WantExec() {
			return got, nil
		}
		// On the card both links are interfaces of one host.
		for _, p := range got.Link.Host() {
			others = append(others, Used{p, "the card's other link"})
		}
		taken = takenBy(others)
		got.Exec, err = pick("exec", spec.Prefix{}, spec.Prefix{}, had.Exec)
		return got, err
	}
	got.Exec, err = pick("exec", c.Spec.Link.IPv4, c.Spec.Link.IPv6, had.Exec)
	return got, err
}

// keep returns the prefix that is wanted, or else the one from before if it is
// still free.
func keep(want spec.Prefix, had netip.Prefix, taken func(netip.Prefix) string) spec.Prefix {
	if !want.IsZero() || !had.IsValid() || taken(had) != "" {
		return want
	}
	return spec.Prefix{Prefix: had}
}

// Privileged reports whether the host's own network is ours to change.
func Privileged() bool { return os.Geteuid() == 0 }
