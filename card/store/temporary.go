package store

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
)

// temporaryPrefix begins the names of cards that live as long as a command.
const temporaryPrefix = "exec-"

// Temporary is the specification of a card that lives as long as the command of
// process pid, and carries that command's packets.
func Temporary(pid int) spec.Spec { return spec.Default(temporaryPrefix + strconv.Itoa(pid)) }

// IsTemporary says whether the card was made for one command.
func (c *Card) IsTemporary() bool {
	_, ok := c.maker()
	return ok
}

// Abandoned says whether the card was made for one command that is gone.
func (c *Card) Abandoned() bool {
	pid, ok := c.maker()
	return ok && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// maker is the process whose command the card was made for.
func (c *Card) maker() (pid int, ok bool) {
	text, ok := strings.CutPrefix(c.Name, temporaryPrefix)
	pid, err := strconv.Atoi(text)
	return pid, ok && err == nil && pid > 0
}
