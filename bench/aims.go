package bench

import (
	"fmt"
	"path"
)

// aim is what a figure shall reach: at least or at most a value, or a ratio to
// its baseline.
type aim struct {
	pattern     string  // of names, as path.Match has it
	least, most float64 // of the value; 0 for none
	ratio       float64 // least ratio; 0 for none
	zero        bool    // the value shall be 0
}

// aims are those of design.md section 9 and of the project's first issue. The
// first one whose pattern fits a name holds.
var aims = []aim{
	{pattern: "pump/to-*/65535/cpu", ratio: 0.9},
	{pattern: "pump/to-*/65535/cpu/same-layout", ratio: 0.9},
	{pattern: "pump/to-*/64/cpu", ratio: 0.7},
	{pattern: "pump/to-*/64/cpu/same-layout", ratio: 0.7},
	{pattern: "pump/allocations", zero: true},
	{pattern: "uml/up/ready", most: 0.4},
	{pattern: "*/up/ready/vs/bare", ratio: 0.83}, // 1.2 times as long
	{pattern: "*/idle/toe", most: 1},
	{pattern: "uml/link/to-*/1/throughput", least: 12},
	{pattern: "uml/link/to-*/1/first-second", least: 12},
	{pattern: "uml/link/to-*/1/pump-cpu", ratio: 0.5}, // twice a cold copy
	{pattern: "*/link/to-*/*/host-cpu/vs/*-1500-plain", ratio: 4},
	{pattern: "*/link/to-*/*/host-cpu/vs/*-1500-tso", ratio: 1},
	{pattern: "*/link/to-*/*/throughput/vs/tap-*", ratio: 1},
	{pattern: "*/link/to-*/*/throughput/vs/passt", ratio: 1},
	{pattern: "*/link/round-trip/vs/tap-*", ratio: 1},
	{pattern: "*/link/round-trip/vs/passt", ratio: 1},
	{pattern: "uml/cards/20/answered", least: 20},
}

// judge writes the aims beside the figures.
func (r *run) judge() {
	for i := range r.report.Results {
		res := &r.report.Results[i]
		for _, a := range aims {
			if fits, _ := path.Match(a.pattern, res.Name); fits {
				a.judge(res)
				break
			}
		}
	}
}

func (a aim) judge(res *Result) {
	met := true
	switch {
	case a.zero:
		// A runtime allocates now and then for itself.
		res.Aim, met = "0", res.Value < 0.001
	case a.least > 0:
		res.Aim, met = fmt.Sprintf("≥ %g %s", a.least, res.Unit), res.Value >= a.least
	case a.most > 0:
		res.Aim, met = fmt.Sprintf("≤ %g %s", a.most, res.Unit), res.Value <= a.most
	case a.ratio > 0:
		res.Aim = fmt.Sprintf("ratio ≥ %g", a.ratio)
		if res.Ratio == nil {
			return // nothing to compare with in this run
		}
		met = *res.Ratio >= a.ratio
	}
	res.Met = &met
}
