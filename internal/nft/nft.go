// Package nft writes tables of nf_tables: google/nftables has their netlink
// form, this package the words that rules are made of.
//
// A rule is a list of Matches; each is a condition, or what to do with a
// packet that has met those before it. See nft(8) and the kernel's
// include/uapi/linux/netfilter/nf_tables.h.
package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is a part of a rule.
type Match []expr.Any

// Table is one table of the family inet, IPv4 and IPv6 in one.
type Table struct {
	conn   *nftables.Conn
	table  *nftables.Table
	failed *error // of what could not be written down
}

// Replace puts what fill writes in the place of the table of this name, in
// one transaction: a packet meets the old rules or the new ones, never none.
// Other tables belong to other programs.
func Replace(name string, fill func(Table)) error {
	return change("replace", name, func(t Table) {
		t.conn.AddTable(t.table)
		fill(t)
	})
}

// Remove removes a table. It is no error that there is none, or a kernel without nf_tables.
func Remove(name string) error {
	err := change("remove", name, func(Table) {})
	if hasNone(err) {
		return nil
	}
	return err
}

// hasNone reports whether an error means that the kernel has no nf_tables: no netfilter at all
// (netlink(7)), no such subsystem, or no family inet.
func hasNone(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

func change(what, name string, fill func(Table)) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	var failed error
	t := Table{c, &nftables.Table{Family: nftables.TableFamilyINet, Name: name}, &failed}
	c.AddTable(t.table) // so that the removal finds one
	c.DelTable(t.table)
	fill(t)
	if failed == nil {
		failed = c.Flush()
	}
	if err := failed; err != nil {
		return fmt.Errorf("nf_tables: %s table inet %s: %w", what, name, err)
	}
	return nil
}

// Chain is a list of rules.
type Chain struct {
	table Table
	chain *nftables.Chain
}

// Chain adds one that others jump to.
func (t Table) Chain(name string) Chain { return t.Base(nftables.Chain{Name: name}) }

// Base adds one that a hook of the kernel calls: its Type, Hooknum, Priority
// and Policy are the caller's.
func (t Table) Base(c nftables.Chain) Chain {
	c.Table = t.table
	return Chain{t, t.conn.AddChain(&c)}
}

// Add appends a rule.
func (c Chain) Add(parts ...Match) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	c.table.conn.AddRule(&nftables.Rule{Table: c.table.table, Chain: c.chain, Exprs: all})
}
