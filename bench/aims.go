package bench

import (
	"fmt"
	"path"
)

// aim is what a figure must reach: at least or at most a value, or a ratio to
// its baseline.
type aim struct {
	text        string  // for people
	pattern     string  // of names, as path.Match has it
	least, most float64 // of the value; 0 for none
	ratio       float64 // least ratio; 0 for none
	zero        bool    // the value must be 0
}

// aims are the project's aims for the link. The first one whose pattern matches a name applies.
var aims = []aim{
	{text: "pump at 65535 bytes 0.9 of bare calls, one hot buffer", pattern: "pump/to-*/65535/cpu", ratio: 0.9},
	{text: "the same, buffers like the card's", pattern: "pump/to-*/65535/cpu/same-layout", ratio: 0.9},
	{text: "pump at 64 bytes 0.7 of bare calls, one hot buffer", pattern: "pump/to-*/64/cpu", ratio: 0.7},
	{text: "the same, buffers like the card's", pattern: "pump/to-*/64/cpu/same-layout", ratio: 0.7},
	{text: "no heap allocation per packet", pattern: "pump/allocations", zero: true},
	{text: "uml ready in 0.4 s", pattern: "uml/up/ready", most: 0.4},
	{text: "the same, a card with a port and toe exec", pattern: "uml/default/up/ready", most: 0.4},
	{text: "ready in 1.2 times the bare machine's time", pattern: "*/up/ready/vs/bare", ratio: 0.83},
	{text: "an idle card costs no host CPU that could be measured: 1 ms/s", pattern: "*/idle/toe", most: 1},
	{text: "the same, a card with a port and toe exec", pattern: "*/default/idle/toe", most: 1},
	{text: "uml: 12 Gbit/s each way", pattern: "uml/link/to-*/1/throughput", least: 12},
	{text: "uml: 12 Gbit/s from the first second", pattern: "uml/link/to-*/1/first-second", least: 12},
	{text: "uml: pump CPU per GiB at most two cold copies", pattern: "uml/link/to-*/1/pump-cpu", ratio: 0.5},
	{text: "host CPU per GiB a quarter of plain 1500", pattern: "*/link/to-*/*/host-cpu/vs/*-1500-plain", ratio: 4},
	{text: "host CPU per GiB below 1500 with TSO", pattern: "*/link/to-*/*/host-cpu/vs/*-1500-tso", ratio: 1},
	{text: "throughput never below QEMU's tap", pattern: "*/link/to-*/*/throughput/vs/tap-*", ratio: 1},
	{text: "throughput never below passt", pattern: "*/link/to-*/*/throughput/vs/passt", ratio: 1},
	{text: "round trip never longer than on QEMU's tap", pattern: "*/link/round-trip/vs/tap-*", ratio: 1},
	{text: "round trip never longer than on passt", pattern: "*/link/round-trip/vs/passt", ratio: 1},
	{text: "20 uml cards at once start and answer", pattern: "uml/cards/20/answered", least: 20},
}

// judge adds the aims to the figures.
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
		// The runtime allocates for itself now and then.
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
