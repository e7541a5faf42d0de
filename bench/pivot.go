package bench

import (
	"fmt"
	"slices"
	"strings"
)

// pivot is the comparison table of one kind of card: a row for each measure, a column for the link
// and each of its rivals.
type pivot struct {
	kind   string
	rivals []string
	rows   []pivotRow
}

type pivotRow struct {
	measure, unit string
	own           float64
	others        map[string]Result // by rival: the comparison
}

// splitName takes a comparison's name apart: KIND/link/MEASURE/vs/RIVAL.
func splitName(name string) (kind, measure, rival string, ok bool) {
	rest, rival, ok := strings.Cut(name, versus)
	if !ok {
		return "", "", "", false
	}
	kind, measure, ok = strings.Cut(rest, "/link/")
	return kind, measure, rival, ok
}

// pivots are the comparisons of a report, in its order.
func (rep Report) pivots() []*pivot {
	var all []*pivot
	for _, res := range rep.Results {
		kind, measure, rival, ok := splitName(res.Name)
		if !ok || res.Baseline == nil || res.Ratio == nil {
			continue
		}
		i := slices.IndexFunc(all, func(p *pivot) bool { return p.kind == kind })
		if i < 0 {
			all, i = append(all, &pivot{kind: kind}), len(all)
		}
		all[i].add(measure, rival, res)
	}
	return all
}

func (p *pivot) add(measure, rival string, res Result) {
	if !slices.Contains(p.rivals, rival) {
		p.rivals = append(p.rivals, rival)
	}
	i := slices.IndexFunc(p.rows, func(r pivotRow) bool { return r.measure == measure })
	if i < 0 {
		p.rows, i = append(p.rows, pivotRow{measure, res.Unit, res.Value, map[string]Result{}}), len(p.rows)
	}
	p.rows[i].others[rival] = res
}

// cells are the rows as text.
func (p *pivot) cells() [][]string {
	rows := [][]string{append([]string{p.kind + " card", "link", "unit"}, p.rivals...)}
	for _, r := range p.rows {
		row := []string{r.measure, number(r.own), r.unit}
		for _, rival := range p.rivals {
			row = append(row, r.cell(rival))
		}
		rows = append(rows, row)
	}
	return rows
}

func (r pivotRow) cell(rival string) string {
	res, ok := r.others[rival]
	if !ok {
		return "–"
	}
	mark := " "
	if res.Met != nil {
		mark = map[bool]string{true: "+", false: "!"}[*res.Met]
	}
	return fmt.Sprintf("%s (%.2f%s)", number(*res.Baseline), *res.Ratio, mark)
}
