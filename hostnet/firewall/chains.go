package firewall

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Chain is a base chain of nf_tables that may drop packets.
type Chain struct {
	Family, Table, Name string
	ByPolicy            bool // else by a rule, perhaps of a chain that it jumps to
}

func (c Chain) String() string {
	how := "a rule that drops"
	if c.ByPolicy {
		how = "policy drop"
	}
	return fmt.Sprintf("table %s %s chain %s (%s)", c.Family, c.Table, c.Name, how)
}

// accept is the command that lets the interfaces of links pass.
func (c Chain) accept(toCard bool) string {
	key := "iifname"
	if toCard {
		key = "oifname"
	}
	const text = `sudo nft insert rule %s %s %s %s '"toe*"' accept`
	return fmt.Sprintf(text, c.Family, c.Table, c.Name, key)
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip",
}

// Chains lists the base chains of IPv4 that may drop packets which the host
// sends to a card, or gets from one. It needs CAP_NET_ADMIN.
func Chains(toCard bool) ([]Chain, error) {
	hooks := []*nftables.ChainHook{nftables.ChainHookPrerouting, nftables.ChainHookInput}
	if toCard {
		hooks = []*nftables.ChainHook{nftables.ChainHookOutput, nftables.ChainHookPostrouting}
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	all, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("nf_tables: chains: %w", err)
	}
	var out []Chain
	for _, c := range all {
		family, ok := families[c.Table.Family]
		isHook := func(h *nftables.ChainHook) bool { return c.Hooknum != nil && *h == *c.Hooknum }
		if !ok || !slices.ContainsFunc(hooks, isHook) {
			continue
		}
		found := Chain{Family: family, Table: c.Table.Name, Name: c.Name}
		found.ByPolicy = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if found.ByPolicy || drops(conn, all, c, map[string]bool{}) {
			out = append(out, found)
		}
	}
	return out, nil
}

// drops reports whether a rule of a chain, or of one that it jumps to, drops or
// rejects. seen are the chains that were looked at.
func drops(
	conn *nftables.Conn, all []*nftables.Chain, c *nftables.Chain, seen map[string]bool,
) bool {
	seen[c.Name] = true
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return false
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Reject:
				return true
			case *expr.Verdict:
				if e.Kind == expr.VerdictDrop {
					return true
				}
				to := chain(all, c.Table, e.Chain)
				if to != nil && !seen[to.Name] && drops(conn, all, to, seen) {
					return true
				}
			}
		}
	}
	return false
}

// chain is the chain of a name in a table, or nil.
func chain(all []*nftables.Chain, t *nftables.Table, name string) *nftables.Chain {
	for _, c := range all {
		if c.Name == name && c.Table.Name == t.Name && c.Table.Family == t.Family {
			return c
		}
	}
	return nil
}
