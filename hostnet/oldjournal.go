package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/atomicfile"
)

// oldJournal is the journal as toe once wrote it. It names neither the boot nor the
// interface of a change, so what is undone goes by what only this card can have
// made: its file as it wrote it, macvtaps, and rules for its own addresses. The
// routes have gone with the interface of the link.
type oldJournal struct {
	ResolvConf  *savedFile `json:"resolv_conf"`
	Interfaces  []string   `json:"interfaces"`
	ReturnRules []struct {
		From  netip.Addr `json:"from"`
		Table int        `json:"table"`
	} `json:"return_rules"`
}

// readOld returns the old journal of a card, or nil for a journal of today.
func readOld(c *store.Card) (*oldJournal, error) {
	var keys map[string]any
	err := atomicfile.ReadJSON(c.Paths.Journal(), &keys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for key := range keys {
		switch key {
		case "resolv_conf", "interfaces", "return_rules":
		default:
			return nil, nil
		}
	}
	var j oldJournal
	return &j, atomicfile.ReadJSON(c.Paths.Journal(), &j)
}

// undoOld undoes and removes the old journal of a card, if there is one.
func undoOld(c *store.Card) error {
	j, err := readOld(c)
	if j == nil || err != nil {
		return err
	}
	var errs []error
	for _, r := range j.ReturnRules {
		errs = append(errs, (&returnRoute{From: r.From, Table: r.Table}).removeRule())
	}
	for _, name := range j.Interfaces {
		errs = append(errs, removeOldMacvtap(name))
	}
	if j.ResolvConf != nil {
		errs = append(errs, j.ResolvConf.Undo())
	}
	if err := errors.Join(errs...); err != nil {
		return err // the journal stays, for the next try
	}
	return atomicfile.Remove(c.Paths.Journal())
}

func removeOldMacvtap(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && strings.HasPrefix(name, interfacePrefix) && l.Type() == "macvtap" {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}
