package link

import (
	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// steer has the host's kernel hand packets only to pairs whose ring towards the card runs and is
// enabled, so that no packet waits in a queue that is not served. If there is no such pair, packets
// wait in the first one. k.mu is held.
func (k *Keeper) steer() {
	if k.net == nil || len(k.net.dev.Files) < 2 || k.closed {
		return
	}
	none := true
	for i := range k.net.dev.Files {
		none = none && !k.serves(i)
	}
	// Attach first: a packet for an interface without any queue is dropped.
	for _, on := range []bool{true, false} {
		for i, f := range k.net.dev.Files {
			if (k.serves(i) || i == 0 && none) != on || k.net.detached[i] != on {
				continue
			}
			if err := tun.SetQueue(int(f.Fd()), on); err != nil {
				k.event("queue pair %d: %v", i, err)
			}
			k.net.detached[i] = !on
		}
	}
}

// serves reports whether the card takes packets on a queue pair. k.mu is held. If the driver has
// our control ring, every ring is enabled from its start, and the driver uses one pair until a
// command changes that (virtio 1.2 section 5.1.6.5.6).
func (k *Keeper) serves(pair int) bool {
	r, ok := k.desired.rings[2*pair]
	if k.desired.features&vhostuser.NetCtrlVQ != 0 && pair >= max(k.desired.pairs, 1) {
		return false
	}
	return ok && r.Enabled
}

// usePairs steers packets to as many queue pairs as the driver uses, by the pump's last news.
func (k *Keeper) usePairs(r *running) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pump == r {
		k.hear(r)
	}
}

// hear records the number of pairs that the pump has reported. The driver does not repeat it to the
// next pump. k.mu is held.
func (k *Keeper) hear(r *running) {
	if n := int(r.pairs.Load()); k.net != nil && n > 0 && n <= len(k.net.dev.Files) {
		k.desired.pairs = n
		k.steer()
	}
}

// forgetPairs resets the number for a new driver. All rings are stopped, so no news of the previous
// driver is in flight. k.mu is held.
func (k *Keeper) forgetPairs() {
	k.desired.pairs = 0
	if k.pump != nil {
		k.pump.pairs.Store(0)
	}
}
