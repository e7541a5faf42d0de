package link

import (
	"fmt"
	"os"

	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// device is the keeper as the vhost-user conversation sees it. Every change is
// written into the wish first or taken back when the pump refuses it; where
// there is no pump, because one has just died, the next one is told the whole
// wish, and the front end need not know.
type device Keeper

func (d *device) Features() uint64 { return d.dev.features(d.accepted) }
func (d *device) Pairs() int       { return len(d.dev.Files) }
func (d *device) Config() []byte   { return d.dev.config() }

func (d *device) SetMTU(mtu uint64) error {
	if mtu > uint64(d.dev.MTU) {
		return fmt.Errorf("device %s: MTU %d, want at most %d", d.dev.Name, mtu, d.dev.MTU)
	}
	return nil
}

func (d *device) SetFeatures(f uint64) error {
	k := (*Keeper)(d)
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.wish.features
	k.wish.features = f
	k.forgetPairs()
	err := k.setOffload(f)
	if err == nil {
		_, err = k.tell(order{Op: opOffer, Features: f})
	}
	if err != nil {
		k.wish.features = old
	}
	return err
}

// setOffload lets the host's kernel hand out what the driver takes. k.mu is held.
func (k *Keeper) setOffload(features uint64) error {
	if k.dev.Stream {
		return nil
	}
	for _, file := range k.dev.Files {
		if err := tun.SetOffload(int(file.Fd()), offload(features)&k.accepted); err != nil {
			return fmt.Errorf("device %s: %w", k.dev.Name, err)
		}
	}
	return nil
}

func (d *device) SetMemory(table []vhostuser.Region) error {
	k := (*Keeper)(d)
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.wish.table
	k.wish.table = table
	if k.pump == nil {
		return nil
	}
	err := k.settle(tellMemory(k.pump, table))
	if err != nil {
		k.wish.table = old
	}
	return err
}

func (d *device) StartRing(i int, r vhostuser.Ring) error {
	k := (*Keeper)(d)
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.wish.rings[i]
	now := wishedRing{Ring: r, taken: was.taken}
	k.wish.rings[i] = now
	defer k.steer()
	if k.pump == nil {
		return nil
	}
	err := k.settle(k.start(i, now))
	if err != nil {
		delete(k.wish.rings, i)
	}
	return err
}

// StopRing must know where the ring was. A pump that dies meanwhile leaves that
// in the card's memory, where the next pump reads it.
func (d *device) StopRing(i int) (uint16, error) {
	k := (*Keeper)(d)
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
			k.event("a pump did not stop ring %d, replaced by %d", i, k.pump.process.PID())
		}
		if r, ok := k.wish.rings[i]; !ok || r.lost {
			// Any number would be a lie; the front end finds the truth
			// in the used index when the conversation ends.
			delete(k.wish.rings, i)
			return 0, fmt.Errorf("device %s: ring %d was lost with its pump", k.dev.Name, i)
		}
		var a answer
		if a, err = k.pump.tell(order{Op: opStop, Index: i}); err == nil {
			delete(k.wish.rings, i)
			return a.Base, nil
		}
		if dead := k.bury(); dead != nil {
			err = dead
			break
		}
	}
	delete(k.wish.rings, i)
	k.reviveLater()
	return 0, err
}

// reviveLater sees to it that there is a pump again where whoever took the last
// one away gives up. k.mu is held.
func (k *Keeper) reviveLater() {
	if k.pump != nil || k.closed {
		return
	}
	k.done.Add(1)
	go func() {
		defer k.done.Done()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.revive("the pump was ended")
	}()
}

func (d *device) EnableRing(i int, on bool) error {
	k := (*Keeper)(d)
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.wish.rings[i]
	if !ok {
		return nil
	}
	defer k.steer()
	was := r
	r.Enabled = on
	k.wish.rings[i] = r
	_, err := k.tell(order{Op: opEnable, Index: i, On: on})
	if err != nil {
		k.wish.rings[i] = was
	}
	return err
}

// Reset takes every ring and all memory away from the pump.
func (d *device) Reset() {
	k := (*Keeper)(d)
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for i := range k.wish.rings {
		if err == nil && k.pump != nil {
			_, err = k.pump.tell(order{Op: opStop, Index: i})
		}
	}
	k.wish = wish{rings: map[int]wishedRing{}}
	k.forgetPairs()
	if err == nil && k.pump != nil {
		err = tellMemory(k.pump, nil)
	}
	if err != nil {
		// Whatever it keeps of this front end dies with it, before the next one is served.
		if err := k.pump.kill(k.opts.dieWithin); err != nil {
			k.event("%v", err)
		}
	}
	k.steer()
}

// steer has the host's kernel hand packets to those pairs alone whose ring towards
// the card runs and is on, so that none waits where nobody looks. Where there is
// no such pair they wait for the first one. k.mu is held.
func (k *Keeper) steer() {
	if len(k.dev.Files) < 2 || k.closed {
		return
	}
	none := true
	for i := range k.dev.Files {
		none = none && !k.serves(i)
	}
	// Attach first: a packet for an interface without any queue is dropped.
	for _, on := range []bool{true, false} {
		for i, f := range k.dev.Files {
			if (k.serves(i) || i == 0 && none) != on || k.detached[i] != on {
				continue
			}
			if err := tun.SetQueue(int(f.Fd()), on); err != nil {
				k.event("queue pair %d: %v", i, err)
			}
			k.detached[i] = !on
		}
	}
}

// serves says whether the card takes packets on a queue pair. k.mu is held. Where
// the driver has our control ring, every ring is on from its start, and the driver
// uses one pair until it says otherwise (virtio 1.2 section 5.1.6.5.6).
func (k *Keeper) serves(pair int) bool {
	r, ok := k.wish.rings[2*pair]
	if k.wish.features&vhostuser.NetCtrlVQ != 0 && pair >= max(k.wish.pairs, 1) {
		return false
	}
	return ok && r.Enabled
}

// usePairs has packets go to as many queue pairs as the driver told the pump that it uses.
func (k *Keeper) usePairs(r *running) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pump == r {
		k.hear(r)
	}
}

// hear takes in what the pump has told of the driver, which does not say it again to the next one.
// k.mu is held.
func (k *Keeper) hear(r *running) {
	if n := int(r.pairs.Load()); n > 0 && n <= len(k.dev.Files) {
		k.wish.pairs = n
		k.steer()
	}
}

// forgetPairs is for a driver that begins anew. Its rings are stopped, so no news of the one before
// is on its way. k.mu is held.
func (k *Keeper) forgetPairs() {
	k.wish.pairs = 0
	if k.pump != nil {
		k.pump.pairs.Store(0)
	}
}

// tell gives an order to the pump, if there is one. k.mu is held.
func (k *Keeper) tell(o order, files ...*os.File) (answer, error) {
	if k.pump == nil {
		return answer{}, nil
	}
	a, err := k.pump.tell(o, files...)
	return a, k.settle(err)
}

// settle is what an order came to. A refusal is an answer. A pump that is gone or does not answer is
// killed, and the order is as good as done once it is dead: its successor, which watch starts, is
// told the whole wish. k.mu is held.
func (k *Keeper) settle(err error) error {
	if err == nil || isRefusal(err) {
		return err
	}
	return k.pump.kill(k.opts.dieWithin)
}

func tellMemory(r *running, table []vhostuser.Region) error {
	o := order{Op: opMemory}
	files := make([]*os.File, 0, len(table))
	for _, t := range table {
		o.Regions = append(o.Regions, region{t.Guest, t.User, t.Size, t.Offset})
		files = append(files, t.File)
	}
	_, err := r.tell(o, files...)
	return err
}

func tellStart(r *running, i int, v vhostuser.Ring, base int) error {
	files := []*os.File{v.Kick}
	for _, f := range []*os.File{v.Call, v.Err} {
		if f != nil {
			files = append(files, f)
		}
	}
	_, err := r.tell(order{Op: opStart, Index: i, Ring: &ring{
		Size: v.Size, Desc: v.Desc, Avail: v.Avail, Used: v.Used, Base: base,
		Enabled: v.Enabled, HasCall: v.Call != nil, HasErr: v.Err != nil,
	}}, files...)
	return err
}

func isRefusal(err error) bool {
	_, ok := err.(refusal)
	return ok
}
