package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// errNoPump reports that an order reached no pump. The desired state holds its content, so the next pump
// gets it.
var errNoPump = errors.New("no pump")

// launch starts a pump and sends it the whole desired state. k.mu is held.
func (k *Keeper) launch() error {
	value, files := k.kind.Setup()
	what, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("device %s: setup: %w", k.name, err)
	}
	r, err := start(k.opts.Launch, k.opts.AnswerWithin)
	if err != nil {
		return err
	}
	k.setPump(r)
	k.done.Add(1)
	go k.watch(r)
	a, err := r.send(order{Op: opInit, Setup: what}, files...)
	k.confined(a.Lacks)
	if err == nil && k.desired.features != 0 {
		_, err = r.send(order{Op: opOffer, Features: k.desired.features})
	}
	if err == nil && len(k.desired.table) > 0 {
		if err = sendMemory(r, k.desired.table); isRefusal(err) {
			// The next pump would refuse it too. The front end must
			// connect again.
			k.event("front end disconnected: its memory: %v", err)
			k.giveUp()
			return nil
		}
	}
	for i, ring := range k.desired.rings {
		if err != nil {
			break
		}
		err = k.start(i, ring)
		if ring = k.desired.rings[i]; isRefusal(err) {
			// The memory table does not hold this ring. The other
			// rings go on.
			k.event("ring %d: %v", i, err)
			ring.lost, err = true, nil
		} else {
			ring.lost = false
		}
		k.desired.rings[i] = ring
	}
	if err != nil {
		err = fmt.Errorf("device %s: %s: %w", k.name, k.opts.Worker, err)
		return errors.Join(err, k.bury())
	}
	return nil
}

// bury kills the pump and waits for its death: only then may another one start. If it outlives the
// limit, bury returns an error, it stays k.pump, and watch replaces it when it dies. k.mu is held.
func (k *Keeper) bury() error {
	r := k.pump
	if err := r.kill(k.opts.dieWithin); err != nil {
		return fmt.Errorf("device %s: %w", k.name, err)
	}
	k.hear(r)
	k.setPump(nil)
	return nil
}

// start has the pump take over a ring and run it, as two orders. Only the first gives the ring's
// position, and no packet moves before its answer arrives. So the keeper knows at each moment
// whether the next pump must continue from the front end's base or from the card's memory. k.mu is
// held.
func (k *Keeper) start(i int, ring desiredRing) error {
	err := sendStart(k.pump, i, ring.Ring, ring.taken)
	if err != nil {
		return err
	}
	ring.taken = true
	k.desired.rings[i] = ring
	_, err = k.pump.send(order{Op: opRun, Index: i})
	return err
}

// confined reports what the pump's confinement lacks, once and not for each pump.
// k.mu is held.
func (k *Keeper) confined(lacks string) {
	if lacks != "" && lacks != k.lacks {
		k.event("the %s is confined less than it could be: %s", k.opts.Worker, lacks)
	}
	k.lacks = lacks
}

// giveUp closes the front end's connection and clears the desired state. k.mu is held.
func (k *Keeper) giveUp() {
	k.desired = desired{rings: map[int]desiredRing{}}
	if k.conn != nil {
		k.conn.Close()
	}
}

// watch waits for the death of a pump and replaces it.
func (k *Keeper) watch(r *running) {
	defer k.done.Done()
	for news := range r.news {
		k.usePairs(r)
		if news != "" {
			k.event("%s", news)
		}
	}
	// A pump that has hung up takes no orders: it is dead, about to die, or orphaned.
	r.end()
	why := r.process.Wait()
	gone := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	r.closeOrders()
	if k.closed || k.pump != r {
		return
	}
	k.setPump(nil)
	if !k.revive(fmt.Sprintf("%s %d ended (%s)", k.opts.Worker, r.process.PID(), why)) {
		return
	}
	k.event("%s %d ended (%s), replaced by %d in %s", k.opts.Worker, r.process.PID(), why,
		k.pump.process.PID(), time.Since(gone).Round(time.Millisecond))
}

// revive starts pumps until one stays or the keeper is closed. It reports whether a pump runs. k.mu
// is held, and released while revive waits.
func (k *Keeper) revive(what string) bool {
	for {
		err := k.relaunch()
		if err == nil {
			return true
		}
		if k.closed {
			return false
		}
		k.event("%s and could not be replaced: %v", what, err)
	}
}

// relaunch starts the next pump at once, but not more than ten times in ten
// seconds: a card that makes every pump fault must not keep the host busy.
// k.mu is held, and released while relaunch waits.
func (k *Keeper) relaunch() error {
	const most, within = 10, 10 * time.Second
	if k.pump != nil {
		return nil
	}
	now := time.Now()
	for len(k.deaths) > 0 && now.Sub(k.deaths[0]) > within {
		k.deaths = k.deaths[1:]
	}
	k.deaths = append(k.deaths, now)
	if len(k.deaths) > most {
		wait := within - now.Sub(k.deaths[0])
		k.event("%s ended %d times in %s: the next one starts in %s", k.opts.Worker, len(k.deaths), within, wait.Round(time.Second))
		k.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-k.quit:
		}
		k.mu.Lock()
	}
	if k.closed {
		return net.ErrClosed
	}
	if k.pump != nil {
		return nil
	}
	return k.launch()
}

// reviveLater starts the next pump in the background, after a caller has given up on the last one.
// k.mu is held.
func (k *Keeper) reviveLater() {
	if k.pump != nil || k.closed {
		return
	}
	k.done.Add(1)
	go func() {
		defer k.done.Done()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.revive("the " + k.opts.Worker + " was ended")
	}()
}

// send sends an order to the pump, if there is one. k.mu is held.
func (k *Keeper) send(o order, files ...*os.File) (answer, error) {
	if k.pump == nil {
		return answer{}, nil
	}
	a, err := k.pump.send(o, files...)
	return a, k.settle(err)
}

// settle returns the outcome of an order. A refusal is an answer. A pump that is gone or does not
// answer is killed. Once it is dead the order counts as done: watch starts its successor, which
// gets the whole desired state. k.mu is held.
func (k *Keeper) settle(err error) error {
	if err == nil || isRefusal(err) {
		return err
	}
	return k.pump.kill(k.opts.dieWithin)
}
