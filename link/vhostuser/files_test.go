package vhostuser_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// holder is a device that may hand on a ring's descriptors at any time, as a
// keeper does when its pump ends.
type holder struct {
	*device
	told *vhostuser.Ring
}

func (h *holder) StartRing(i int, r vhostuser.Ring) error {
	err := h.usable()
	h.told = &r
	h.device.StartRing(i, r)
	return err
}

func (h *holder) SetMTU(uint64) error { return h.usable() }

// usable reports whether the descriptors passed last are still open.
func (h *holder) usable() error {
	if h.told == nil {
		return nil
	}
	for name, f := range map[string]*os.File{"kick": h.told.Kick, "call": h.told.Call, "err": h.told.Err} {
		if _, err := f.Stat(); err != nil {
			return fmt.Errorf("the device's %s descriptor: %w", name, err)
		}
	}
	return nil
}

// A running ring's descriptors are replaced. The old ones stay open until the
// device gets the new ones.
func TestDescriptorsOutliveTheirReplacement(t *testing.T) {
	dev := &holder{device: &device{}}
	k := newTalkWith(t, dev, dev.device)
	k.acks()
	k.ok(k.Do(vhostuser.SetVringNum, fakecard.U32(0, 8)))
	k.ok(k.Do(vhostuser.SetVringAddr, append(fakecard.U32(0, 0), fakecard.U64(0, 4096, 8192, 0)...)))
	for round := range 2 {
		for _, r := range []vhostuser.Request{vhostuser.SetVringCall, vhostuser.SetVringErr, vhostuser.SetVringKick} {
			if err := k.Do(r, fakecard.U64(0), k.event); err != nil {
				t.Errorf("round %d, request %d: %v", round, r, err)
			}
			if err := k.Do(vhostuser.NetSetMTU, fakecard.U64(1500)); err != nil {
				t.Errorf("round %d, after request %d: the device holds a closed descriptor", round, r)
			}
		}
	}
	if err := k.end(); err != nil {
		t.Error(err)
	}
}
