package nft

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Set is filled by rules: it remembers keys for a time after the last Update.
type Set struct{ set *nftables.Set }

// Set adds one of at most size keys, each of these parts. A table that is
// replaced forgets them.
func (t Table) Set(name string, memory time.Duration, size uint32, parts ...nftables.SetDatatype) Set {
	key, err := nftables.ConcatSetType(parts...)
	s := &nftables.Set{
		Table: t.table, Name: name, KeyType: key, Concatenation: len(parts) > 1,
		Dynamic: true, HasTimeout: true, Timeout: memory, Size: size,
	}
	if err == nil {
		err = t.conn.AddSet(s, nil)
	}
	if err != nil {
		*t.failed = errors.Join(*t.failed, fmt.Errorf("set %s: %w", name, err))
	}
	return Set{s}
}

// Update puts the key that begins in the first register into the set, and a
// rule ends there when the set is full.
func (s Set) Update() *expr.Dynset {
	return &expr.Dynset{SrcRegKey: Reg1, SetName: s.set.Name, SetID: s.set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE}
}

// Holds matches where the set has the key that Reg1 and the following begin with.
func (s Set) Holds() *expr.Lookup {
	return &expr.Lookup{SourceRegister: Reg1, SetName: s.set.Name, SetID: s.set.ID}
}

// Lacks compares the key that begins in the first register.
func (s Set) Lacks() *expr.Lookup {
	return &expr.Lookup{SourceRegister: Reg1, SetName: s.set.Name, SetID: s.set.ID, Invert: true}
}
