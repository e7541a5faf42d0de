package bench

import (
	"fmt"
	"html"
	"io"
)

// Sizes of the chart in pixels.
const (
	chartWidth = 760
	barHeight  = 16
	barStep    = 20
	labelWidth = 250
	barMost    = 400
)

// Chart draws the figures as bars, a group for each unit, as SVG.
func (rep Report) Chart(w io.Writer) error {
	groups, units := map[string][]Result{}, []string{}
	for _, res := range rep.Results {
		if groups[res.Unit] == nil {
			units = append(units, res.Unit)
		}
		groups[res.Unit] = append(groups[res.Unit], res)
	}
	height := 40 + len(units)*2*barStep + len(rep.Results)*barStep
	c := &canvas{w: w, y: 24}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, height)
	c.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	c.text(10, fmt.Sprintf("toe bench: %s, %d CPUs; medians, a line marks the baseline", rep.Host.Kernel, rep.Host.CPUs), "bold")
	for _, u := range units {
		c.group(u, groups[u])
	}
	c.printf("</svg>\n")
	return c.err
}

type canvas struct {
	w   io.Writer
	y   int // of the next row
	err error
}

func (c *canvas) printf(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.w, format, args...)
	}
}

func (c *canvas) text(x int, s, weight string) {
	c.printf(`<text x="%d" y="%d" font-weight="%s">%s</text>`+"\n", x, c.y, weight, html.EscapeString(s))
}

// group draws the figures of one unit on one scale.
func (c *canvas) group(unit string, results []Result) {
	most := 0.0
	for _, res := range results {
		most = max(most, res.Value)
		if res.Baseline != nil {
			most = max(most, *res.Baseline)
		}
	}
	c.y += 2 * barStep
	c.text(10, unit, "bold")
	for _, res := range results {
		c.y += barStep
		c.text(10, res.Name, "normal")
		c.bar(res, most)
	}
}

func (c *canvas) bar(res Result, most float64) {
	scale := func(v float64) int {
		if most <= 0 {
			return 0
		}
		return int(v / most * barMost)
	}
	top := c.y - barHeight + 4
	c.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", labelWidth, top, scale(res.Value), barHeight, colour(res))
	if res.Baseline != nil {
		x := labelWidth + scale(*res.Baseline)
		c.printf(`<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#000" stroke-width="2"/>`+"\n", x, top, x, top+barHeight)
	}
	c.text(labelWidth+barMost+10, number(res.Value), "normal")
}

// colour tells figures with an aim, met or not, from those without.
func colour(res Result) string {
	switch {
	case res.Met == nil:
		return "#6b8fb5"
	case *res.Met:
		return "#5a9e6f"
	}
	return "#c77d4f"
}
