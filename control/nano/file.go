// Package nano speaks with the nano edition, whose one program (firmware/nano/init.c) has no TLS and
// no JSON: the file that configures it, the questions that it answers over the link, and a client
// that stands in for the one of the agent. docs/nano.md has both formats.
package nano

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/toe-project/toe/control"
)

// FilePath is the file on the card that its host wrote.
const FilePath = "/etc/toe/nano"

// recordSize is the size of a record in the file, in bytes:
//
//	0  kind      1  K key, L link, P port, A address, G gateway, M masquerade
//	1  device    1  A, G: index of the L or P record among these, from 0
//	2  length    1  A, G: 4 or 16
//	3  bits      1  A: prefix length
//	2  MTU       2  P: big-endian
//	4  MAC       6  L, P: of the device when the card starts
//	10 padding   6
//	16 value    16  K: the key; L, P: the name; A, G: the address
const recordSize = 32

// The limits of init.c.
const (
	maxDevices   = 10
	maxAddresses = 32
)

type record [recordSize]byte

// File returns the configuration of a card as its init reads it. A port's addresses must be
// prefixes. What the edition cannot do is not in the file; card/spec refuses it.
func File(cfg *control.Config, key Key) ([]byte, error) {
	f := &file{}
	r := f.add('K')
	copy(r[16:], key[:])
	if cfg.NAT {
		f.add('M')
	}
	for _, l := range cfg.Links {
		if err := f.device('L', l.Name, l.MAC, 0); err != nil {
			return nil, err
		}
		for _, p := range l.Card {
			f.address('A', p.Addr(), p.Bits())
		}
	}
	for _, p := range cfg.Ports {
		mtu := p.MTU
		if mtu == 0 {
			mtu = 1500
		}
		if err := f.device('P', p.Name, p.MAC, mtu); err != nil {
			return nil, err
		}
		for _, text := range p.Addresses {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("port %s: address %q: the nano edition wants an address with a prefix length", p.Name, text)
			}
			f.address('A', prefix.Addr(), prefix.Bits())
		}
		for _, g := range p.Gateway {
			f.address('G', g, 0)
		}
	}
	switch {
	case f.devices > maxDevices:
		return nil, fmt.Errorf("%d links and ports: the nano edition has %d at most", f.devices, maxDevices)
	case f.addresses > maxAddresses:
		return nil, fmt.Errorf("%d addresses and gateways: the nano edition has %d at most", f.addresses, maxAddresses)
	}
	return f.bytes(), nil
}

type file struct {
	records            []*record
	devices, addresses int
}

func (f *file) add(kind byte) *record {
	r := &record{kind}
	f.records = append(f.records, r)
	return r
}

func (f *file) device(kind byte, name, mac string, mtu int) error {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("%s: MAC address %q: want six bytes", name, mac)
	}
	if len(name) == 0 || len(name) > 15 || mtu > 65535 {
		return fmt.Errorf("device %q, MTU %d: want 1 to 15 characters, and 65535 at most", name, mtu)
	}
	r := f.add(kind)
	binary.BigEndian.PutUint16(r[2:], uint16(mtu))
	copy(r[4:], hw)
	copy(r[16:31], name)
	f.devices++
	return nil
}

// address belongs to the device before it.
func (f *file) address(kind byte, a netip.Addr, bits int) {
	r := f.add(kind)
	b := a.AsSlice()
	r[1], r[2], r[3] = byte(f.devices-1), byte(len(b)), byte(bits)
	copy(r[16:], b)
	f.addresses++
}

func (f *file) bytes() []byte {
	var out []byte
	for _, r := range f.records {
		out = append(out, r[:]...)
	}
	return out
}
