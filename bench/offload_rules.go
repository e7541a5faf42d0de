package bench

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// offloadTable is the nf_tables table of the measurements; marker is on rules in a chain of another
// table.
const offloadTable = "toe-bench"

var offloadMarker = []byte("toe-bench")

// firewall is the rules that every packet of a device traverses, in both directions: the same on
// the host and on the card.
type firewall struct {
	Device string `json:"device"`
	Rules  int    `json:"rules"` // 0 for none
}

// packets is a pair of devices between which a card forwards, and hides the
// source.
type packets struct{ From, To string }

type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// replaceRules makes a table of a firewall and of masquerading; both may be
// empty, and then there is no table.
func replaceRules(f firewall, hidden []packets) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	r := ruleset{c, &nftables.Table{Family: nftables.TableFamilyINet, Name: offloadTable}}
	c.AddTable(r.table) // so that the removal finds one
	c.DelTable(r.table)
	if f.Rules > 0 || len(hidden) > 0 {
		c.AddTable(r.table)
	}
	r.hide(hidden)
	if f.Rules > 0 {
		err = errors.Join(
			r.walk("in", nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME, f),
			r.walk("out", nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME, f))
	}
	if err := errors.Join(err, c.Flush()); err != nil {
		return fmt.Errorf("nf_tables: replace table inet %s: %w", offloadTable, err)
	}
	return nil
}

// rulesAtOnce is the number of rules in a transaction. The kernel answers each, and a small socket
// loses answers to more.
const rulesAtOnce = 10

// walk fills a chain that a packet of the device traverses rule by rule to the end: no set, no map,
// and no short cut for established connections.
func (r ruleset) walk(name string, hook *nftables.ChainHook, key expr.MetaKey, f firewall) error {
	accept := nftables.ChainPolicyAccept
	ch := r.conn.AddChain(&nftables.Chain{
		Name: name, Table: r.table, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	r.add(ch, onDevice(key, f.Device, expr.CmpOpNeq), ruleVerdict(expr.VerdictAccept))
	for i := range f.Rules {
		r.add(ch, unwanted(i), ruleVerdict(expr.VerdictDrop))
		if i%rulesAtOnce == 0 {
			if err := r.conn.Flush(); err != nil {
				return err
			}
		}
	}
	r.add(ch, invalid(), ruleVerdict(expr.VerdictDrop))
	return nil
}

// unwanted is one rule's condition, as in ip saddr 203.0.113.7 tcp dport 1007:
// another host and service in each, none of which occurs.
func unwanted(i int) []expr.Any {
	port := binaryutil.BigEndian.PutUint16(uint16(1000 + i))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{203, 0, 113, byte(i)}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port},
	}
}

// invalid makes connection tracking follow every packet.
func invalid() []expr.Any {
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

func (r ruleset) hide(all []packets) {
	if len(all) == 0 {
		return
	}
	ch := r.conn.AddChain(&nftables.Chain{
		Name: "nat", Table: r.table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, p := range all {
		r.add(ch, between(p), []expr.Any{&expr.Masq{}})
	}
}

func (r ruleset) add(ch *nftables.Chain, parts ...[]expr.Any) {
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: ch, Exprs: joined(parts)})
}

func joined(parts [][]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func ruleVerdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func onDevice(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ) // otherwise it matches any name with this prefix
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: padded},
	}
}

func between(p packets) []expr.Any {
	return append(onDevice(expr.MetaKeyIIFNAME, p.From, expr.CmpOpEq), onDevice(expr.MetaKeyOIFNAME, p.To, expr.CmpOpEq)...)
}

// letThrough puts pairs into the forward chain of a card's own firewall, whose policy is drop. It
// removes the rules of an earlier call.
func letThrough(all []packets) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: "toe"}
	ch := &nftables.Chain{Name: "forward", Table: t}
	rules, err := c.GetRules(t, ch)
	if err != nil {
		return fmt.Errorf("nf_tables: rules of table inet toe, chain forward: %w", err)
	}
	for _, r := range rules {
		if bytes.Equal(r.UserData, offloadMarker) {
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
	}
	for _, p := range all {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, UserData: offloadMarker, Exprs: append(between(p), ruleVerdict(expr.VerdictAccept)...)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nf_tables: table inet toe, chain forward: %w", err)
	}
	return nil
}
