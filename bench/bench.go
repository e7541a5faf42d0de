// Package bench measures a card's link and its competitors in one run on one machine, so that
// ratios can be compared where absolute figures cannot. docs/benchmarks.md says how each figure is
// made.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/progress"
)

// Result is one figure.
type Result struct {
	Name   string    `json:"name"`
	Value  float64   `json:"value"` // median over the rounds
	Unit   string    `json:"unit"`
	Rounds []float64 `json:"rounds"`
	// Baseline is the figure that the value is compared with, in the same unit, and Against its
	// name. Ratio is above 1 where the value is better.
	Baseline       *float64  `json:"baseline"`
	BaselineRounds []float64 `json:"baseline_rounds,omitempty"`
	Against        string    `json:"against,omitempty"`
	Ratio          *float64  `json:"ratio"`
	Aim            string    `json:"aim,omitempty"`
	Met            *bool     `json:"met,omitempty"`
	Note           string    `json:"note,omitempty"`
}

// Skip is a measurement that could not be made here.
type Skip struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Report is a whole run.
type Report struct {
	Host    Host      `json:"host"`
	Time    time.Time `json:"time"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"` // of one round of traffic
	Took    float64   `json:"took_seconds"`
	Results []Result  `json:"results"`
	Skipped []Skip    `json:"skipped"`
}

// Options say what to measure.
type Options struct {
	Rounds   int           // of each measurement, at least 1
	Length   time.Duration // of one round of traffic
	Quick    bool          // fewer packets
	Only     []string      // parts; all of them where empty
	Machine  string        // kind of the card, as in card.yaml
	Cards    int           // in parallel; 0 is 20, or 4 on a slow kind of machine
	Toe      string        // the program toe, to start cards with
	Version  string        // of it, for the report
	Cache    string        // where firmware is
	NoPasst  error         // why Fetch failed, if it did
	Progress *progress.Progress
}

// part is a group of measurements.
type part struct {
	name, about string
	run         func(ctx context.Context, b *run) error
}

// parts lists all parts, in the order of measurement.
func parts() []part {
	return []part{
		{"copy", "a cold copy of 64 KiB, the unit of the others", measureCopy},
		{"pump", "the pump alone against bare readv and writev", measurePump},
		{"start", "time to ready beside the bare machine, memory, idle CPU", measureStart},
		{"link", "a card's traffic over its link", measureLink},
		{"rivals", "the same with a QEMU card, beside QEMU's tap and passt", measureRivals},
		{"cards", "many cards at once", measureCards},
	}
}

// NeedsNetwork reports whether Fetch should come before a run of these parts.
func NeedsNetwork(only []string) bool {
	return len(only) == 0 || slices.Contains(only, "rivals") || slices.Contains(only, "link")
}

// Parts names what Options.Only can choose.
func Parts() []string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// run is a run under way.
type run struct {
	Options
	report Report
	dir    string // for sockets and state, removed at the end
	soft   spent  // softirqs, after the first look-up
}

// Run measures, in the calling process's network namespace, which must be made for it. After an
// error or an interrupt the report holds the figures measured before.
func Run(ctx context.Context, o Options) (Report, error) {
	r := &run{Options: o, report: Report{
		Host: thisHost(o.Version), Time: time.Now().UTC(), Rounds: o.Rounds, Seconds: o.Length.Seconds(), Results: []Result{}, Skipped: []Skip{},
	}}
	if err := r.check(); err != nil {
		return r.report, err
	}
	remove, err := r.makeDir()
	if err != nil {
		return r.report, err
	}
	defer remove()
	if err := loopbackUp(); err != nil {
		return r.report, err
	}
	var failed []error
	for _, p := range parts() {
		if len(o.Only) > 0 && !slices.Contains(o.Only, p.name) {
			continue
		}
		if err := p.run(ctx, r); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
		if ctx.Err() != nil {
			return r.report, ctx.Err()
		}
	}
	r.judge()
	r.report.Took = time.Since(r.report.Time).Seconds()
	return r.report, errors.Join(failed...)
}

func (r *run) check() error {
	for _, name := range r.Only {
		if !slices.Contains(Parts(), name) {
			return fmt.Errorf("no measurement %q: want one of %s", name, strings.Join(Parts(), ", "))
		}
	}
	if r.Rounds < 1 || r.Length < time.Second {
		return fmt.Errorf("%d rounds of %s: want at least 1 of 1s", r.Rounds, r.Length)
	}
	if r.Cards < 0 {
		return fmt.Errorf("%d cards at once: want at least 1", r.Cards)
	}
	return nil
}

// add records a figure with its rounds.
func (r *run) add(name, unit string, rounds []float64) *Result {
	r.report.Results = append(r.report.Results, Result{Name: name, Value: median(rounds), Unit: unit, Rounds: rounds})
	return &r.report.Results[len(r.report.Results)-1]
}

// lower and higher compare a figure with a baseline's rounds. The name says which direction is
// better.
func (res *Result) lower(baseline []float64, against string) *Result {
	return res.compare(baseline, against, median(baseline)/res.Value)
}

func (res *Result) higher(baseline []float64, against string) *Result {
	return res.compare(baseline, against, res.Value/median(baseline))
}

func (res *Result) compare(baseline []float64, against string, ratio float64) *Result {
	m := median(baseline)
	res.Baseline, res.BaselineRounds, res.Against, res.Ratio = &m, baseline, against, &ratio
	return res
}

func (r *run) skip(name, why string) {
	r.report.Skipped = append(r.report.Skipped, Skip{name, why})
	r.Progress.Log("skipped %s: %s", name, why)
}

func (r *run) softirqs() spent {
	if r.soft == nil {
		r.soft = softirqs()
	}
	return r.soft
}

// find returns a figure that was measured before.
func (r *run) find(name string) (Result, bool) {
	for _, res := range r.report.Results {
		if res.Name == name {
			return res, true
		}
	}
	return Result{}, false
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
