package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/toe-project/toe/machine"
)

// measure is one figure of a rig's round.
type measure struct {
	name, unit string
	higher     bool // is better
	alone      bool // is not compared with the rivals'
}

// series are the rounds of each measure and rig.
type series struct {
	order  []measure
	rounds map[string]map[string][]float64 // by measure, then rig
}

func (s *series) add(m measure, rig string, v float64) {
	if s.rounds == nil {
		s.rounds = map[string]map[string][]float64{}
	}
	if s.rounds[m.name] == nil {
		s.rounds[m.name] = map[string][]float64{}
		s.order = append(s.order, m)
	}
	s.rounds[m.name][rig] = append(s.rounds[m.name][rig], v)
}

// ways are TCP's two directions as agent.BenchServe names them.
var ways = []struct {
	name string
	mode byte
}{{"to-card", 'i'}, {"to-host", 'o'}}

var streamCounts = []int{1, 4}

// round measures everything on one rig once.
func (s *series) round(ctx context.Context, r *run, g *rig, note func(string)) error {
	if g.prepare != nil {
		if err := g.prepare(ctx); err != nil {
			return err
		}
	}
	for _, way := range ways {
		for _, streams := range streamCounts {
			name := fmt.Sprintf("%s/%d/", way.name, streams)
			note(g.name + ", TCP " + name[:len(name)-1])
			if err := g.settle(ctx); err != nil {
				return fmt.Errorf("%sthroughput: %w", name, err)
			}
			f, err := g.traffic(ctx, way.mode, streams, r.Length)
			if err != nil {
				return fmt.Errorf("%sthroughput: %w", name, err)
			}
			s.add(measure{name: name + "throughput", unit: "Gbit/s", higher: true}, g.name, f.gbit())
			s.add(measure{name: name + "first-second", unit: "Gbit/s", higher: true, alone: true}, g.name, f.firstSecond())
			if f.stalled() {
				r.skip(fmt.Sprintf("%s/%shost-cpu", g.name, name), fmt.Sprintf("a round moved only %.0f bytes in %.1f s", f.bytes, f.seconds))
				continue
			}
			s.add(measure{name: name + "host-cpu", unit: "s/GiB"}, g.name, f.hostPerGiB())
			if g.pump != nil {
				s.add(measure{name: name + "pump-cpu", unit: "s/GiB"}, g.name, f.pumpPerGiB())
			}
		}
	}
	return s.small(ctx, r, g, note)
}

func (s *series) small(ctx context.Context, r *run, g *rig, note func(string)) error {
	const trips = 1000
	note(g.name + ", round trips")
	if err := g.settle(ctx); err != nil {
		return err
	}
	v, err := g.roundTrip(ctx, trips)
	if err != nil {
		return err
	}
	s.add(measure{name: "round-trip", unit: "µs"}, g.name, v)
	for _, way := range []struct {
		name string
		run  func(context.Context, time.Duration) (float64, error)
	}{{"to-card", g.smallToCard}, {"to-host", g.smallToHost}} {
		note(g.name + ", 64 bytes " + way.name)
		if err := g.settle(ctx); err != nil {
			return err
		}
		v, err := way.run(ctx, time.Second)
		if err != nil {
			return fmt.Errorf("small/%s: %w", way.name, err)
		}
		s.add(measure{name: "small/" + way.name, unit: "packets/s", higher: true}, g.name, v)
	}
	return nil
}

// compare runs all rigs in turn, round by round, so that other load on this machine affects all
// alike, and compares the first one with the others. A round that fails is named; a rig that fails
// twice is skipped.
func (r *run) compare(ctx context.Context, kind machine.Kind, rigs []*rig) error {
	stage := r.Progress.Stage(fmt.Sprintf("traffic of a %s card", kind), int64(r.Rounds*len(rigs)))
	defer stage.Done("")
	const most = 2
	s, failed := &series{}, map[string]int{}
	for round := range r.Rounds {
		for i := range rigs {
			// The order rotates, so that no rig is always first.
			g := rigs[(round+i)%len(rigs)]
			if failed[g.name] < most {
				if err := s.round(ctx, r, g, stage.Note); err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					failed[g.name]++
					r.skip(fmt.Sprintf("%s/%s, round %d", kind, g.name, round+1), err.Error())
				}
			}
			stage.Add(1)
		}
	}
	if own := rigs[0].name; failed[own] == most {
		return fmt.Errorf("%s failed in %d rounds of %d", own, most, r.Rounds)
	}
	s.report(r, kind, rigs)
	return nil
}

// report adds a row for each figure of the first rig, and one for each rival.
func (s *series) report(r *run, kind machine.Kind, rigs []*rig) {
	own := rigs[0].name
	for _, m := range s.order {
		name := fmt.Sprintf("%s/%s/%s", kind, own, m.name)
		rounds := s.rounds[m.name][own]
		if len(rounds) == 0 {
			continue
		}
		res := r.add(name, m.unit, rounds)
		if unit, ok := r.find("copy/64KiB-cold"); ok && strings.HasSuffix(m.name, "pump-cpu") {
			res.lower(unit.Rounds, "a cold copy of 64 KiB")
		}
		for _, rival := range rigs[1:] {
			base := s.rounds[m.name][rival.name]
			if len(base) == 0 || m.alone {
				continue
			}
			res := r.add(name+versus+rival.name, m.unit, rounds)
			if m.higher {
				res.higher(base, rival.name)
			} else {
				res.lower(base, rival.name)
			}
		}
	}
}

// versus is in the names of comparisons.
const versus = "/vs/"

// closeAll closes rigs, the last first.
func closeAll(rigs []*rig) error {
	var errs []error
	for i := len(rigs) - 1; i >= 0; i-- {
		errs = append(errs, rigs[i].close())
	}
	return errors.Join(errs...)
}
