package hostnet

import (
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/journal"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/atomicfile"
)

// kinds are the changes of the host that a card makes for longer than one of
// its descriptors is open.
var kinds = journal.Kinds{
	"file":         &savedFile{},
	"macvtap":      &macvtap{},
	"routes":       &routes{},
	"return_route": &returnRoute{},
	"udp_answers":  &udpAnswers{},
	"resolved":     &resolved{},
	"up":           &up{},
}

func journalOf(c *store.Card) *journal.Journal {
	return journal.Open(c.Paths.Journal(), c.Name, kinds)
}

// do changes the host through the card's journal.
func (h *Host) do(c journal.Change) (undo func() error, err error) {
	return journalOf(h.card).Do(c)
}

// Unrestored reports whether this host still is as a supervisor that is gone
// changed it, and will be after a restart.
func Unrestored(c *store.Card) bool {
	old, _ := readOld(c)
	lasting := journalOf(c).Lasting() || old != nil && old.ResolvConf != nil
	return lasting && !c.Running()
}

// Clean undoes what a supervisor left: the host's name resolution, interfaces,
// rules and routes, and the runtime files. It does nothing where nothing was
// left. The caller holds the card's lock, or knows that no process does.
func Clean(c *store.Card) error {
	atomicfile.Sweep(c.Paths.State)
	atomicfile.Sweep(c.Paths.Keys())
	if err := undoOld(c); err != nil {
		return err
	}
	if err := journalOf(c).Undo(); err != nil {
		return err
	}
	abortLeft(c)
	return c.CleanRuntime()
}

// abortLeft aborts the host's connections that still wait for an endpoint that
// is gone with its supervisor. A kernel that cannot is no reason not to clean up.
func abortLeft(c *store.Card) {
	var l store.Links
	if c.Spec.Endpoint() && atomicfile.ReadJSON(c.Paths.Links(), &l) == nil && l.Link != nil {
		_ = netdev.Abort(*l.Link)
	}
}
