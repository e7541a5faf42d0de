package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/toe-project/toe/machine"
)

// measureCards starts many cards in parallel, checks that each answers, measures their memory, and
// takes all down in parallel.
func measureCards(ctx context.Context, r *run) (err error) {
	cards := make([]*testCard, r.howMany())
	stage := r.Progress.Stage(fmt.Sprintf("%d cards at once", len(cards)), int64(3*len(cards)))
	defer func() { stage.Fail(err) }()
	defer func() {
		if left := allDown(cards, func() {}); err == nil {
			err = left
		}
	}()
	stage.Note("starting")
	start := time.Now()
	err = atOnce(len(cards), func(i int) error {
		c, _, err := r.up(ctx, fmt.Sprintf("%s%d", cardName, i), r.Machine)
		cards[i] = c
		stage.Add(1)
		return err
	})
	if err != nil {
		return err
	}
	ready := time.Since(start)
	r.saw(cards[0])
	name := fmt.Sprintf("%s/cards/%d/", cards[0].status.Machine.Kind, len(cards))
	r.add(name+"ready", "s", []float64{ready.Seconds()}).Note = "from the first command to the end of the last"
	stage.Note("each answering")
	answered, err := r.answers(ctx, cards, func() { stage.Add(1) })
	if err != nil {
		return err
	}
	r.add(name+"answered", "cards", []float64{float64(answered)})
	if err := r.cardsMemory(name, cards); err != nil {
		return err
	}
	stage.Note("stopping")
	start = time.Now()
	if err := allDown(cards, func() { stage.Add(1) }); err != nil {
		return err
	}
	r.add(name+"down", "s", []float64{time.Since(start).Seconds()})
	return nil
}

// howMany is the requested number of cards, by default one that starts in reasonable time: QEMU's
// translator needs some CPU seconds for each.
func (r *run) howMany() int {
	const many, few = 20, 4
	switch kind := cmp.Or(r.report.Host.Machine, r.Machine); {
	case r.Cards > 0:
		return r.Cards
	case r.Quick || kind == string(machine.TCG):
		return few
	}
	return many
}

// atOnce runs f for n indexes in parallel and waits for all.
func atOnce(n int, f func(int) error) error {
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { errs[i] = f(i) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// answers queries each card at its own address.
func (r *run) answers(ctx context.Context, cards []*testCard, done func()) (n int, err error) {
	for _, c := range cards {
		g := &rig{name: c.name, host: c.cardAddr(), card: c.card}
		if err := g.listen(ctx, fmt.Sprintf("%s:%d", g.host, servePort), 20*time.Second); err != nil {
			return n, err
		}
		_, err := g.roundTrip(ctx, 10)
		if err := errors.Join(err, g.close()); err != nil {
			return n, fmt.Errorf("card %s: %w", c.name, err)
		}
		n++
		done()
	}
	return n, nil
}

func (r *run) cardsMemory(name string, cards []*testCard) error {
	var pids []int
	for _, c := range cards {
		pids = append(append(pids, c.status.Pump.PID, c.status.Supervisor.PID), family(c.status.Machine.PID)...)
	}
	mib, err := memory(pids)
	if err != nil {
		return err
	}
	r.add(name+"memory", "MiB", []float64{mib})
	r.add(name+"memory-each", "MiB", []float64{mib / float64(len(cards))})
	return nil
}

// allDown takes down all cards that are up, in parallel, and forgets them.
func allDown(cards []*testCard, done func()) error {
	return atOnce(len(cards), func(i int) error {
		c := cards[i]
		if c == nil {
			return nil
		}
		cards[i] = nil
		defer done()
		return c.down()
	})
}
