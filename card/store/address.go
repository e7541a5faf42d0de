package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/hostid"
)

// LinkAddrs are the addresses of one link. The even address of each prefix
// is the host's, the odd one the card's.
type LinkAddrs struct {
	IPv4 netip.Prefix `json:"ipv4"` // a /31 (RFC 3021)
	IPv6 netip.Prefix `json:"ipv6"` // a /127 (RFC 6164)
}

// The ranges that addresses are taken from when card.yaml says nothing.
var (
	linkRange4 = netip.MustParsePrefix("10.116.0.0/16")
	linkRange6 = netip.MustParsePrefix("fd74:6f65::/32") // "to" "e" in ASCII
)

// tries bounds the search for a free prefix. With 32768 of them a host has
// no room for cards long before this fails for another reason.
const tries = 4096

var errNoAddress = errors.New("no free link address")

// Host returns the host's addresses with their prefix length.
func (l LinkAddrs) Host() []netip.Prefix { return []netip.Prefix{l.IPv4, l.IPv6} }

// Card returns the card's addresses with their prefix length.
func (l LinkAddrs) Card() []netip.Prefix {
	odd := func(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr().Next(), p.Bits()) }
	return []netip.Prefix{odd(l.IPv4), odd(l.IPv6)}
}

// HostAddrs are the host's addresses.
func (l LinkAddrs) HostAddrs() []netip.Addr { return addrs(l.Host()) }

// CardAddrs are the card's addresses.
func (l LinkAddrs) CardAddrs() []netip.Addr { return addrs(l.Card()) }

func addrs(ps []netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, len(ps))
	for i, p := range ps {
		out[i] = p.Addr()
	}
	return out
}

// chooseAddrs picks a link's addresses: the wanted ones where there are any, else
// a prefix hashed from this host and the names of card and link, and the next hash
// where that one is taken. So a card made anew gets the same one, and cluster
// software that compares the addresses of its hosts rarely finds one twice.
func chooseAddrs(
	card, link string, want4, want6 spec.Prefix, taken func(netip.Prefix) string,
) (LinkAddrs, error) {
	var out LinkAddrs
	for _, f := range []struct {
		key  string
		want spec.Prefix
		make func([32]byte) netip.Prefix
		got  *netip.Prefix
	}{
		{"link.ipv4", want4, hashed4, &out.IPv4},
		{"link.ipv6", want6, hashed6, &out.IPv6},
	} {
		if !f.want.IsZero() {
			if by := taken(f.want.Prefix); by != "" {
				return out, fmt.Errorf("%s %s: taken by %s; choose another, or leave the key out", f.key, f.want, by)
			}
			*f.got = f.want.Prefix
			continue
		}
		p, err := freePrefix(card, link, f.make, taken)
		if err != nil {
			return out, fmt.Errorf("%s of card %s: %w", f.key, card, err)
		}
		*f.got = p
	}
	return out, nil
}

func freePrefix(
	card, link string, hashed func([32]byte) netip.Prefix, taken func(netip.Prefix) string,
) (netip.Prefix, error) {
	by := ""
	for i := range tries {
		p := hashed(hostid.Hash("link", card, link, strconv.Itoa(i)))
		if by = taken(p); by == "" {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: the last one tried is taken by %s", errNoAddress, by)
}

func hashed4(sum [32]byte) netip.Prefix {
	b := linkRange4.Addr().As4()
	binary.BigEndian.PutUint16(b[2:], binary.BigEndian.Uint16(sum[:])&^1)
	return netip.PrefixFrom(netip.AddrFrom4(b), 31)
}

// hashed6 keeps the low 64 bits small: ::0 and ::1 are easy to type, and the
// 32 hashed bits before them are plenty.
func hashed6(sum [32]byte) netip.Prefix {
	b := linkRange6.Addr().As16()
	copy(b[4:8], sum[:4])
	b[15] = 2 // not ::0, which is every router's on a longer prefix
	return netip.PrefixFrom(netip.AddrFrom16(b), 127)
}
