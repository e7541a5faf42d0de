package bench

import (
	"fmt"
	"io"
	"strings"

	"github.com/toe-project/toe/control"
)

// baselineWay is the way that every other is compared with: the best of a conventional network
// device.
var baselineWay = tapName1500(true)

// offloadFigures are the figures of a measurement.
var offloadFigures = []struct {
	name       string
	bulk, rest string // units
	higher     bool   // is better
	of         func(measured) float64
}{
	{"host-cpu", "s/GiB", "µs/request", false, func(m measured) float64 { return per((m.program + m.mover).Seconds(), m) }},
	{"mover-cpu", "s/GiB", "µs/request", false, func(m measured) float64 { return per(m.mover.Seconds(), m) }},
	{"card-cpu", "s/GiB", "µs/request", false, func(m measured) float64 { return per(m.card.Seconds(), m) }},
	{"wire-cpu", "s/GiB", "µs/request", false, func(m measured) float64 { return per(m.wire.Seconds(), m) }},
	{"softirq-cpu", "s/GiB", "µs/request", false, func(m measured) float64 { return per(m.soft.Seconds(), m) }},
	{"card-calls", "calls/GiB", "calls/request", false, func(m measured) float64 { return m.calls / m.units }},
	{"packets", "packets/GiB", "packets/request", false, func(m measured) float64 { return m.packets / m.units }},
	{"throughput", "Gbit/s", "requests/s", true, func(m measured) float64 { return m.rate }},
}

// per is seconds per GiB, or µs per request: there are far more requests.
func per(seconds float64, m measured) float64 {
	if m.requests {
		seconds *= 1e6
	}
	return seconds / m.units
}

// reportOffload writes KIND/WORK/LOAD/WAY/FIGURE for everything.
func (b *offloadRun) reportOffload(s offloadSeries) {
	for _, k := range b.works() {
		for _, l := range loads {
			for _, w := range b.ways {
				b.reportWay(s, place{k, l, w.name})
			}
		}
	}
}

func (b *offloadRun) reportWay(s offloadSeries, p place) {
	if len(s[p]) == 0 {
		return
	}
	for _, f := range offloadFigures {
		unit := f.rest
		if p.load.bulk {
			unit = f.bulk
		}
		if f.name == "card-calls" && p.way != control.ModeEndpoint {
			continue
		}
		res := b.add(fmt.Sprintf("%s/%s/%s/%s/%s", b.kind, p.work, p.load.name, p.way, f.name), unit, each(s[p], f.of))
		base := s[place{p.work, p.load, baselineWay}]
		switch {
		case p.way == baselineWay || len(base) == 0 || f.name == "card-calls" || f.name == "wire-cpu" || f.name == "softirq-cpu":
		case f.higher:
			res.higher(each(base, f.of), baselineWay)
		default:
			res.lower(each(base, f.of), baselineWay)
		}
	}
}

func each(all []measured, of func(measured) float64) (out []float64) {
	for _, m := range all {
		out = append(out, of(m))
	}
	return out
}

// judgeOffload adds the aims to the host's CPU of endpoint mode: half of the cost of a conventional
// device with TSO for bulk, and a quarter with a firewall or encryption.
func (r *run) judgeOffload() {
	for i := range r.report.Results {
		res := &r.report.Results[i]
		part := strings.Split(res.Name, "/")
		if len(part) != 5 || part[3] != "endpoint" || part[4] != "host-cpu" || res.Unit != "s/GiB" || res.Ratio == nil {
			continue
		}
		least := 2.0
		if work(part[1]) != plainWork {
			least = 4
		}
		aim{ratio: least}.judge(res)
	}
}

// PrintOffload writes a table: a line for each way, with the host's CPU and the baseline's.
func (rep Report) PrintOffload(w io.Writer) {
	h := rep.Host
	fmt.Fprintf(w, "%s, %d CPUs (%s, %s), load %.2f before; card: %s, %s\n", h.Kernel, h.CPUs, h.Model, h.Arch, h.Load, h.Machine, h.Card)
	fmt.Fprintf(w, "%d rounds of %g s each; CPU in s/GiB or µs/request; ratio: the host CPU of %s by this one's\n\n", rep.Rounds, rep.Seconds, baselineWay)
	rows := [][]string{{"", "host CPU", "min … max", "ratio", "of it pump", "packets", "card CPU", "card calls", "port CPU", "throughput", "unit", "aim", ""}}
	rest := Report{Host: h, Skipped: rep.Skipped}
	found := map[string]Result{}
	for _, res := range rep.Results {
		found[res.Name] = res
	}
	for _, res := range rep.Results {
		name, isHost := strings.CutSuffix(res.Name, "/host-cpu")
		switch {
		case isHost:
			rows = append(rows, offloadRow(name, found))
		case strings.Count(res.Name, "/") != 4:
			rest.Results = append(rest.Results, res)
		}
	}
	if len(rows) > 1 {
		plainTable(w, rows)
		fmt.Fprintln(w)
	}
	rest.printRest(w)
}

func offloadRow(name string, found map[string]Result) []string {
	host, rate := found[name+"/host-cpu"], found[name+"/throughput"]
	row := []string{
		name, number(host.Value), spread(host.Rounds), "", number(found[name+"/mover-cpu"].Value), number(found[name+"/packets"].Value),
		number(found[name+"/card-cpu"].Value), "",
		number(found[name+"/wire-cpu"].Value), number(rate.Value), rate.Unit, host.Aim, "",
	}
	if calls, ok := found[name+"/card-calls"]; ok {
		row[7] = number(calls.Value)
	}
	if host.Ratio != nil {
		row[3] = fmt.Sprintf("%.2f", *host.Ratio)
	}
	if host.Met != nil {
		row[12] = map[bool]string{true: "met", false: "not met"}[*host.Met]
	}
	return row
}

// plainTable writes rows in columns, figures to the right.
func plainTable(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 || i > 9 {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// printRest writes the figures that belong to no way.
func (rep Report) printRest(w io.Writer) {
	for _, res := range rep.Results {
		line := fmt.Sprintf("%s: %s %s", res.Name, number(res.Value), res.Unit)
		if res.Baseline != nil {
			line += fmt.Sprintf(" (%s: %s)", res.Against, number(*res.Baseline))
		}
		fmt.Fprintln(w, line)
	}
	for _, s := range rep.Skipped {
		fmt.Fprintf(w, "not measured: %s: %s\n", s.Name, s.Why)
	}
}
