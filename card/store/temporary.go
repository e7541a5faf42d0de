package store

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/flock"
)

// temporaryPrefix begins the names of cards that live as long as a command.
const temporaryPrefix = "exec-"

// Temporary is the specification of a card that lives as long as the command of
// process pid, and carries that command's packets.
func Temporary(pid int) spec.Spec { return spec.Default(temporaryPrefix + strconv.Itoa(pid)) }

// IsTemporary reports whether the card was made for one command.
func (c *Card) IsTemporary() bool {
	text, ok := strings.CutPrefix(c.Name, temporaryPrefix)
	pid, err := strconv.Atoi(text)
	return ok && err == nil && pid > 0
}

// maker is locked by the process whose command a temporary card was made for.
func (p Paths) maker() string { return filepath.Join(p.State, "maker.pid") }

// Claim makes a temporary card this process's for as long as it lives. The
// process id in the card's name may be another's later.
func (c *Card) Claim() (*flock.Lock, error) { return flock.Try(c.Paths.maker()) }

// Abandoned reports whether the card was made for one command that is gone.
func (c *Card) Abandoned() bool {
	_, claimed, err := flock.Owner(c.Paths.maker())
	return c.IsTemporary() && err == nil && !claimed
}
