package bench

import (
	"fmt"
	"io"
	"strings"
)

// Print writes the report as tables.
func (rep Report) Print(w io.Writer) {
	h := rep.Host
	fmt.Fprintf(w, "%s, %d CPUs (%s, %s), load %.2f before", h.Kernel, h.CPUs, h.Model, h.Arch, h.Load)
	if h.Machine != "" {
		fmt.Fprintf(w, "; card: %s, %s", h.Machine, h.Card)
	}
	fmt.Fprintf(w, "\n%d rounds, traffic of %g s each; %.0f s in all\n", rep.Rounds, rep.Seconds, rep.Took)
	for _, p := range rep.pivots() {
		fmt.Fprintf(w, "\nIn brackets how many times better the link is; + meets its aim, ! does not.\n\n")
		table(w, p.cells(), func(i int) bool { return i == 0 || i == 2 })
	}
	rows := [][]string{{"", "median", "unit", "min … max", "baseline", "ratio", "aim", ""}}
	for _, res := range rep.Results {
		if !strings.Contains(res.Name, "/link/") || !strings.Contains(res.Name, versus) {
			rows = append(rows, row(res))
		}
	}
	if len(rows) > 1 {
		fmt.Fprintln(w)
		table(w, rows, func(i int) bool { return i == 0 || i == 2 || i > 5 })
	}
	for _, s := range rep.Skipped {
		fmt.Fprintf(w, "\nnot measured: %s: %s", s.Name, s.Why)
	}
	if len(rep.Skipped) > 0 {
		fmt.Fprintln(w)
	}
	if sums := rep.sums(); len(sums) > 1 {
		fmt.Fprintln(w)
		table(w, sums, func(int) bool { return true })
	}
}

func row(res Result) []string {
	cells := []string{res.Name, number(res.Value), res.Unit, spread(res.Rounds), "", "", res.Aim, ""}
	if res.Baseline != nil && res.Ratio != nil {
		cells[4], cells[5] = number(*res.Baseline), fmt.Sprintf("%.2f", *res.Ratio)
	}
	if res.Met != nil {
		cells[7] = verdict(*res.Met)
	}
	return cells
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "not met"
}

func spread(rounds []float64) string {
	if len(rounds) < 2 {
		return ""
	}
	lo, hi := rounds[0], rounds[0]
	for _, v := range rounds {
		lo, hi = min(lo, v), max(hi, v)
	}
	return number(lo) + " … " + number(hi)
}

// number formats three significant digits.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

// table writes rows in columns; left marks the columns that are not figures.
func table(w io.Writer, rows [][]string, left func(column int) bool) {
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
			if left(i) {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
