package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
)

// load is one kind of traffic.
type load struct {
	name    string
	workers int
	bulk    bool // reported per GiB, otherwise per request
}

var loads = []load{
	{"send", 1, true}, {"sendfile", 1, true}, {"receive", 1, true},
	{"requests", 8, false}, {"connections", 8, false},
}

// measured is one load over one way, once.
type measured struct {
	requests                         bool    // not GiB
	units, rate                      float64 // requests, and by the second; or GiB, and Gbit by the second
	packets                          float64 // of the host's device, both ways
	calls                            float64 // system calls of the card's event loop
	program, mover, card, wire, soft time.Duration
}

// once measures a load.
func (b *offloadRun) once(ctx context.Context, w *way, k work, l load) (m measured, err error) {
	calls, err := w.calls(ctx)
	if err != nil {
		return m, err
	}
	clocks := []spent{w.program, w.mover, w.card, w.wire, b.softirqs()}
	before, err := readAll(clocks)
	if err != nil {
		return m, err
	}
	packets, err := w.packets()
	if err != nil {
		return m, err
	}
	done, err := w.side.order(ctx, loadOrder{
		What: l.name, Address: w.address(k), Workers: l.workers, Length: b.Length, File: b.file,
	}, b.Length+2*drainTime)
	if err != nil {
		return m, err
	}
	after, err := readAll(clocks)
	if err != nil {
		return m, err
	}
	if m.packets, err = w.packets(); err != nil {
		return m, err
	}
	if m.calls, err = w.calls(ctx); err != nil {
		return m, err
	}
	m.calls -= calls
	m.packets -= packets
	for i, to := range []*time.Duration{&m.program, &m.mover, &m.card, &m.wire, &m.soft} {
		*to = after[i] - before[i]
	}
	if interruptsApart() {
		m.mover += m.soft // which is in no thread's own clock
	}
	m.requests, m.units, m.rate = !l.bulk, done.Count, done.Count/done.Seconds
	if l.bulk {
		m.units, m.rate = done.Bytes/(1<<30), done.Bytes*8/1e9/done.Seconds
	}
	if m.units <= 0 {
		return m, fmt.Errorf("%s moved nothing in %.1f s", l.name, done.Seconds)
	}
	return m, nil
}

func readAll(clocks []spent) (all []time.Duration, err error) {
	for _, c := range clocks {
		d, err := c()
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// place is the position of a figure.
type place struct {
	work work
	load load
	way  string
}

type offloadSeries map[place][]measured

// compareWays measures everything over all ways in turn, round by round, so that other load on this
// machine affects all alike. A way and work that fail are skipped and named.
func (b *offloadRun) compareWays(ctx context.Context) error {
	works := b.works()
	stage := b.Progress.Stage(fmt.Sprintf("traffic with a %s card", b.kind), int64(b.Rounds*len(works)*len(b.ways)))
	defer stage.Done("")
	s, broken := offloadSeries{}, map[string]bool{}
	for round := range b.Rounds {
		for _, k := range works {
			for i := range b.ways {
				w := b.ways[(round+i)%len(b.ways)]
				name := fmt.Sprintf("%s/%s/%s", b.kind, k, w.name)
				stage.Note(fmt.Sprintf("%s, %s", w.name, k))
				if !broken[name] {
					if err := b.visit(ctx, s, w, k); err != nil {
						if ctx.Err() != nil {
							return ctx.Err()
						}
						broken[name] = true
						b.skip(name, err.Error())
						if err := b.cardLost(ctx); err != nil {
							b.reportOffload(s)
							return err
						}
					}
				}
				stage.Add(1)
			}
		}
	}
	b.reportOffload(s)
	return nil
}

// cardLost reports a card whose machine ended and was started again: its set-up is lost.
func (b *offloadRun) cardLost(ctx context.Context) error {
	st, err := client.New(b.card.card).Status(ctx, 0)
	if err != nil {
		return err
	}
	if st.Restarts == 0 && st.State != status.Starting {
		return nil
	}
	said := make([]string, 0, len(st.History))
	for _, e := range st.History {
		said = append(said, e.Text)
	}
	return fmt.Errorf("the card did not survive this: %s", strings.Join(said, "; "))
}

func (b *offloadRun) works() (all []work) {
	for _, k := range []work{plainWork, rulesWork, cryptWork} {
		if b.wants(string(k)) {
			all = append(all, k)
		}
	}
	return all
}

// visit measures all loads of a work over a way.
func (b *offloadRun) visit(ctx context.Context, s offloadSeries, w *way, k work) error {
	if err := w.prepare(ctx, k); err != nil {
		return err
	}
	// A first request finds routes, neighbours and keys, and is not measured.
	warm := loadOrder{What: "connections", Address: w.address(k), Workers: 1, Length: 10 * time.Millisecond}
	if _, err := w.side.order(ctx, warm, 2*drainTime); err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	for _, l := range loads {
		m, err := b.once(ctx, w, k, l)
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		s[place{k, l, w.name}] = append(s[place{k, l, w.name}], m)
	}
	return nil
}
