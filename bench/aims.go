package bench

import "fmt"

// aim is what a figure shall reach: at least or at most a value, or a ratio to
// its baseline.
type aim struct {
	name        string
	least, most float64 // of the value; 0 for none
	ratio       float64 // least ratio; 0 for none
	zero        bool    // the value shall be 0
	kind        string  // of machine; empty for any
}

// aims are those of design.md section 9 and of the project's first issue.
func aims() []aim {
	return []aim{
		{name: "pump/to-host/65535/cpu", ratio: 0.9},
		{name: "pump/to-host/65535/cpu/same-layout", ratio: 0.9},
		{name: "pump/to-card/65535/cpu", ratio: 0.9},
		{name: "pump/to-card/65535/cpu/same-layout", ratio: 0.9},
		{name: "pump/to-host/64/cpu", ratio: 0.7},
		{name: "pump/to-host/64/cpu/same-layout", ratio: 0.7},
		{name: "pump/to-card/64/cpu", ratio: 0.7},
		{name: "pump/to-card/64/cpu/same-layout", ratio: 0.7},
		{name: "pump/allocations", zero: true},
		{name: "link/to-card/1/throughput", least: 12, kind: "uml"},
		{name: "link/to-card/1/first-second", least: 12, kind: "uml"},
		{name: "link/to-host/1/throughput", least: 12, kind: "uml"},
		{name: "link/to-host/1/first-second", least: 12, kind: "uml"},
		{name: "link/to-card/1/pump-cpu", ratio: 0.5, kind: "uml"},
		{name: "link/to-host/1/pump-cpu", ratio: 0.5, kind: "uml"},
		{name: "link/to-card/1/host-cpu", ratio: 1},
		{name: "link/to-host/1/host-cpu", ratio: 1},
		{name: "up/ready", most: 0.4, kind: "uml"},
	}
}

// judge writes the aims beside the figures.
func (r *run) judge() {
	for _, a := range aims() {
		if a.kind != "" && a.kind != r.report.Host.Machine {
			continue
		}
		for i := range r.report.Results {
			if res := &r.report.Results[i]; res.Name == a.name {
				a.judge(res)
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
