package bench

import (
	"fmt"
	"io"
	"strings"
)

// Print writes the report as a table for people.
func (rep Report) Print(w io.Writer) {
	h := rep.Host
	fmt.Fprintf(w, "%s, %d CPUs (%s, %s), load %.2f before", h.Kernel, h.CPUs, h.Model, h.Arch, h.Load)
	if h.Machine != "" {
		fmt.Fprintf(w, "; card: %s, %s", h.Machine, h.Card)
	}
	fmt.Fprint(w, "\n\n")
	rows := [][]string{{"", "median", "unit", "min … max", "baseline", "ratio", "aim", ""}}
	for _, res := range rep.Results {
		rows = append(rows, row(res))
	}
	table(w, rows)
	for _, s := range rep.Skipped {
		fmt.Fprintf(w, "\nnot measured: %s: %s", s.Name, s.Why)
	}
	if len(rep.Skipped) > 0 {
		fmt.Fprintln(w)
	}
}

func row(res Result) []string {
	cells := []string{res.Name, number(res.Value), res.Unit, spread(res.Rounds), "", "", res.Aim, ""}
	if res.Baseline != nil {
		cells[4], cells[5] = number(*res.Baseline), fmt.Sprintf("%.2f", *res.Ratio)
	}
	if res.Met != nil {
		cells[7] = map[bool]string{true: "met", false: "not met"}[*res.Met]
	}
	return cells
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

// number writes three digits that matter.
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

// table writes rows in columns: the first to the left, figures to the right.
func table(w io.Writer, rows [][]string) {
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
			if left := i == 0 || i == 2 || i > 5; left {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
