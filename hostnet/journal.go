package hostnet

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/atomicfile"
)

// Journal is what this card changed on its host and has to put back. Each
// entry is written before the change is made, so that whoever comes next can
// undo it, however the supervisor ended.
type Journal struct {
	ResolvConf  *SavedFile   `json:"resolv_conf,omitempty"`
	Interfaces  []string     `json:"interfaces,omitempty"` // persistent ones that we made
	ReturnRules []ReturnRule `json:"return_rules,omitempty"`
}

// addInterface is for each start of a port, and there once all the same.
func (j *Journal) addInterface(name string) {
	if !slices.Contains(j.Interfaces, name) {
		j.Interfaces = append(j.Interfaces, name)
	}
}

// SavedFile is a file as it was: either a symbolic link or contents.
type SavedFile struct {
	Path   string `json:"path"`
	Link   string `json:"link,omitempty"`
	Data   []byte `json:"data,omitempty"`
	Mode   uint32 `json:"mode,omitempty"`
	Absent bool   `json:"absent,omitempty"`
	Ours   []byte `json:"ours"` // what we put there; anything else is somebody's later change and stays
}

func loadJournal(c *store.Card) (Journal, error) {
	var j Journal
	err := atomicfile.ReadJSON(c.Paths.Journal(), &j)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return j, err
}

func saveJournal(c *store.Card, j Journal) error { return atomicfile.WriteJSON(c.Paths.Journal(), j) }

// noting is held while a journal is read and written again: ports are opened
// at the same time, and no entry of theirs may get lost.
var noting sync.Mutex

// note adds to the journal.
func note(c *store.Card, change func(*Journal)) error {
	noting.Lock()
	defer noting.Unlock()
	j, err := loadJournal(c)
	if err != nil {
		return err
	}
	change(&j)
	return saveJournal(c, j)
}

// Unrestored says whether this host still is as a supervisor that is gone
// changed it, for which a restart of the host is no cure.
func Unrestored(c *store.Card) bool {
	j, err := loadJournal(c)
	return err == nil && j.ResolvConf != nil && !c.Running()
}

// Clean puts back what a supervisor left: the host's name resolution,
// interfaces and rules that we made, and the runtime files. It does nothing
// where nothing was left. The caller holds the card's lock or knows that
// nobody does.
func Clean(c *store.Card) error {
	j, err := loadJournal(c)
	if err != nil {
		return err
	}
	atomicfile.Sweep(c.Paths.State)
	atomicfile.Sweep(c.Paths.Keys())
	errs := []error{removeInterfaces(j.Interfaces), removeReturnRules(j.ReturnRules), restoreFile(j.ResolvConf)}
	if err := errors.Join(errs...); err != nil {
		return err // the journal stays, for the next try
	}
	abortLeft(c)
	if err := os.Remove(c.Paths.Journal()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.CleanRuntime()
}

// abortLeft ends what still waits on this host for an endpoint that is gone,
// with its supervisor. A kernel that cannot is no reason not to clean up.
func abortLeft(c *store.Card) {
	var l store.Links
	if c.Spec.Endpoint() && atomicfile.ReadJSON(c.Paths.Links(), &l) == nil && l.Link != nil {
		_ = netdev.Abort(*l.Link)
	}
}
