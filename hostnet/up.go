package hostnet

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// up is an interface of the host that was down and is up while a port is open:
// a persistent TAP outlives its descriptors.
type up struct {
	Netns string `json:"netns,omitempty"` // name of its network namespace, "" for the host's
	Name  string `json:"name"`
	Index int    `json:"index"`
}

func (u *up) Make() error {
	return u.in(func(l netlink.Link) error {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("interface %s: up: %w", u.Name, err)
		}
		return nil
	})
}

func (u *up) Undo() error {
	return u.in(func(l netlink.Link) error {
		if l.Attrs().Flags&net.FlagUp == 0 {
			return nil
		}
		if err := netlink.LinkSetDown(l); err != nil {
			return fmt.Errorf("interface %s: down: %w", u.Name, err)
		}
		return nil
	})
}

func (u *up) Lasts() bool { return false }

// in calls f with the interface, unless it is gone or another one has its name.
func (u *up) in(f func(netlink.Link) error) error {
	find := func() error {
		l, err := netlink.LinkByName(u.Name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("interface %s: %w", u.Name, err)
		}
		if l.Attrs().Index != u.Index {
			return nil
		}
		return f(l)
	}
	if u.Netns == "" {
		return find()
	}
	if !netnsExists(u.Netns) {
		return nil
	}
	return inNetns(u.Netns, find)
}
