package feature

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// PortRange is First to Last, both included. It is "22" or "8000-8010" in
// card.yaml, {"first": 8000, "last": 8010} in card.json.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Has reports whether the range contains a port.
func (r PortRange) Has(port uint16) bool { return r.First <= port && port <= r.Last }

// Problem is what is wrong with the range, or nil.
func (r PortRange) Problem() error {
	if r.First == 0 || r.Last < r.First {
		return errors.New("not a port from 1 to 65535, nor two with a dash such as 8000-8010")
	}
	return nil
}

// UnmarshalText reads 22 or 8000-8010.
func (r *PortRange) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	*r = PortRange{uint16(a), uint16(b)}
	if err1 != nil || err2 != nil {
		return PortRange{}.Problem()
	}
	return r.Problem()
}

// UnmarshalJSON reads the object of card.json.
func (r *PortRange) UnmarshalJSON(data []byte) error {
	type plain PortRange
	return json.Unmarshal(data, (*plain)(r))
}

// MarshalYAML writes a number where there is one.
func (r PortRange) MarshalYAML() (any, error) {
	if r.First == r.Last {
		return int(r.First), nil
	}
	return r.String(), nil
}

// Range is an address, or a prefix of addresses. card.json always has a prefix.
type Range struct{ netip.Prefix }

// Problem is what is wrong with the range, or nil.
func (n Range) Problem() error {
	switch {
	case !n.IsValid() || n.Addr().Is4In6():
		return errors.New("neither an address nor one with a prefix length, such as 10.0.0.0/8")
	case n.Masked() != n.Prefix:
		return fmt.Errorf("has bits beyond its prefix length; %s has not", n.Masked())
	}
	return nil
}

// UnmarshalText reads 10.0.0.0/8 or 192.0.2.7.
func (n *Range) UnmarshalText(text []byte) error {
	s := string(text)
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		n.Prefix = netip.PrefixFrom(a, a.BitLen())
		return n.Problem()
	}
	n.Prefix, _ = netip.ParsePrefix(s)
	return n.Problem()
}

// MarshalText leaves out the length of a single address.
func (n Range) MarshalText() ([]byte, error) {
	if n.IsSingleIP() {
		return n.Addr().MarshalText()
	}
	return n.Prefix.MarshalText()
}

// MarshalJSON writes the length of a single address, too.
func (n Range) MarshalJSON() ([]byte, error) { return json.Marshal(n.Prefix) }

// DSCP is a differentiated services code point (RFC 2474): six bits. It is a
// number or a name in card.yaml, a number in card.json.
type DSCP int

const maxDSCP = 63

// dscpNames are those of RFC 2474, 2597, 3246, 5865 and 8622.
var dscpNames = map[string]DSCP{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22,
	"af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
	"ef": 46, "va": 44, "le": 1,
}

// Problem is what is wrong with the code point, or nil.
func (d DSCP) Problem() error {
	if d < 0 || d > maxDSCP {
		return errors.New("not a DSCP: 0 to 63, or cs0 to cs7, af11 to af43, ef, va or le")
	}
	return nil
}

// UnmarshalText reads a name or 0 to 63.
func (d *DSCP) UnmarshalText(text []byte) error {
	if v, ok := dscpNames[strings.ToLower(string(text))]; ok {
		*d = v
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 6)
	if err != nil {
		return DSCP(-1).Problem()
	}
	*d = DSCP(n)
	return nil
}

// UnmarshalJSON reads the number of card.json.
func (d *DSCP) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, (*int)(d)) }
