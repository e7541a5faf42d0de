package link

import (
	"fmt"

	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// backend is the keeper as the vhost-user conversation sees it: a vhostuser.Device. Every change
// enters the desired state first and is reverted if the pump refuses it. If there is no pump, because one
// has just died, the next one gets the whole desired state and the front end does not notice.
type backend Keeper

func (b *backend) Shape() vhostuser.Shape { return b.kind.Shape() }
func (b *backend) Features() uint64       { return b.kind.Features() }
func (b *backend) Config() []byte         { return b.kind.Config() }

func (b *backend) SetMTU(mtu uint64) error {
	if b.net == nil {
		return fmt.Errorf("device %s has no MTU", b.name)
	}
	if most := b.net.dev.MTU; mtu > uint64(most) {
		return fmt.Errorf("device %s: MTU %d, want at most %d", b.name, mtu, most)
	}
	return nil
}

func (b *backend) SetFeatures(f uint64) error {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.desired.features
	k.desired.features = f
	k.forgetPairs()
	err := k.setOffload(f)
	if err == nil {
		_, err = k.send(order{Op: opOffer, Features: f})
	}
	if err != nil {
		k.desired.features = old
	}
	return err
}

// setOffload sets the packets that the host's kernel may hand out to those that the driver accepts.
// k.mu is held.
func (k *Keeper) setOffload(features uint64) error {
	if k.net == nil || k.net.dev.Stream {
		return nil
	}
	for _, file := range k.net.dev.Files {
		if err := tun.SetOffload(int(file.Fd()), offload(features)&k.net.accepted); err != nil {
			return fmt.Errorf("device %s: %w", k.name, err)
		}
	}
	return nil
}

func (b *backend) SetMemory(table []vhostuser.Region) error {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.desired.table
	k.desired.table = table
	if k.pump == nil {
		return nil
	}
	err := k.settle(sendMemory(k.pump, table))
	if err != nil {
		k.desired.table = old
	}
	return err
}

func (b *backend) StartRing(i int, r vhostuser.Ring) error {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.desired.rings[i]
	now := desiredRing{Ring: r, taken: was.taken}
	k.desired.rings[i] = now
	defer k.steer()
	if k.pump == nil {
		return nil
	}
	err := k.settle(k.start(i, now))
	if err != nil {
		delete(k.desired.rings, i)
	}
	return err
}

// StopRing stops a ring and returns its position. A pump that dies meanwhile leaves the position in
// the card's memory, where the next pump reads it.
func (b *backend) StopRing(i int) (uint16, error) {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.steer()
	var err error
	for try := range 3 {
		if k.pump == nil {
			if err = k.relaunch(); err != nil {
				break
			}
		}
		if try > 0 {
			k.event("a %s did not stop ring %d, replaced by %d", k.opts.Worker, i, k.pump.process.PID())
		}
		if r, ok := k.desired.rings[i]; !ok || r.lost {
			// The position is unknown and must not be made up. The front
			// end finds it in the used index when the conversation ends.
			delete(k.desired.rings, i)
			return 0, fmt.Errorf("device %s: ring %d was lost with its pump", k.name, i)
		}
		var a answer
		if a, err = k.pump.send(order{Op: opStop, Index: i}); err == nil {
			delete(k.desired.rings, i)
			return a.Base, nil
		}
		if dead := k.bury(); dead != nil {
			err = dead
			break
		}
	}
	delete(k.desired.rings, i)
	k.reviveLater()
	return 0, err
}

func (b *backend) EnableRing(i int, on bool) error {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.desired.rings[i]
	if !ok {
		return nil
	}
	defer k.steer()
	was := r
	r.Enabled = on
	k.desired.rings[i] = r
	_, err := k.send(order{Op: opEnable, Index: i, On: on})
	if err != nil {
		k.desired.rings[i] = was
	}
	return err
}

// Reset takes every ring and all memory away from the pump.
func (b *backend) Reset() {
	k := (*Keeper)(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for i := range k.desired.rings {
		if err == nil && k.pump != nil {
			_, err = k.pump.send(order{Op: opStop, Index: i})
		}
	}
	k.desired = desired{rings: map[int]desiredRing{}}
	k.forgetPairs()
	if err == nil && k.pump != nil {
		err = sendMemory(k.pump, nil)
	}
	if err != nil {
		// The kill releases everything that the pump holds of this front end, before the
		// next front end is served.
		if err := k.pump.kill(k.opts.dieWithin); err != nil {
			k.event("%v", err)
		}
	}
	k.steer()
}
