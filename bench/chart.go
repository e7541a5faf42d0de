package bench

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Sizes of the chart in pixels.
const (
	chartWidth = 840
	barHeight  = 14
	barStep    = 18
	labelWidth = 170
	barMost    = 470
)

// bar is one figure of a group.
type bar struct {
	label  string
	value  float64
	colour string
}

// group is a set of bars on one scale.
type group struct {
	title string
	bars  []bar
}

const (
	ownColour, lowColour, otherColour = "#5a9e6f", "#c77d4f", "#9fb3c8"
)

// Chart draws the comparisons as groups of bars, as SVG: the link beside its
// rivals, the pump beside bare system calls.
func (rep Report) Chart(w io.Writer) error {
	groups := append(rep.linkGroups(), rep.pumpGroups()...)
	height := 50
	for _, g := range groups {
		height += (2 + len(g.bars)) * barStep
	}
	c := &canvas{w: w, y: 24}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, height)
	c.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	c.text(10, fmt.Sprintf("toe bench: %s, %d CPUs; medians of %d rounds; orange: worse than the best beside it",
		rep.Host.Kernel, rep.Host.CPUs, rep.Rounds), "bold")
	for _, g := range groups {
		c.group(g)
	}
	c.printf("</svg>\n")
	return c.err
}

// linkGroups are the most telling comparisons: the CPU of four streams is like that of one.
func (rep Report) linkGroups() []group {
	var all []group
	for _, p := range rep.pivots() {
		for _, r := range p.rows {
			if strings.HasSuffix(r.measure, "pump-cpu") || strings.HasSuffix(r.measure, "4/host-cpu") {
				continue
			}
			g := group{title: fmt.Sprintf("%s card, %s, %s", p.kind, r.measure, r.unit)}
			worst := 1.0
			for _, rival := range p.rivals {
				if res, ok := r.others[rival]; ok {
					g.bars = append(g.bars, bar{rival, *res.Baseline, otherColour})
					worst = min(worst, *res.Ratio)
				}
			}
			g.bars = append([]bar{{"link", r.own, colourOf(worst)}}, g.bars...)
			all = append(all, g)
		}
	}
	return all
}

// pumpGroups shows the pump and its two baselines, each in ns a packet.
func (rep Report) pumpGroups() []group {
	var all []group
	const same = "/same-layout"
	for _, res := range rep.Results {
		rest, ok := strings.CutPrefix(res.Name, "pump/")
		if !ok || !strings.HasSuffix(rest, "/cpu") || res.Baseline == nil {
			continue
		}
		g := group{title: fmt.Sprintf("pump alone, %s bytes, %s", strings.TrimSuffix(rest, "/cpu"), res.Unit)}
		best := *res.Ratio
		g.bars = []bar{{"bare, one hot buffer", *res.Baseline, otherColour}}
		for _, other := range rep.Results {
			if other.Name == res.Name+same && other.Baseline != nil {
				g.bars = append(g.bars, bar{"bare, the card's buffers", *other.Baseline, otherColour})
				best = max(best, *other.Ratio)
			}
		}
		g.bars = append([]bar{{"pump", res.Value, colourOf(best)}}, g.bars...)
		all = append(all, g)
	}
	return all
}

// colourOf marks figures that are better than their competitors.
func colourOf(ratio float64) string {
	if ratio >= 1 {
		return ownColour
	}
	return lowColour
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

func (c *canvas) group(g group) {
	most := 0.0
	for _, b := range g.bars {
		most = max(most, b.value)
	}
	c.y += 2 * barStep
	c.text(10, g.title, "bold")
	for _, b := range g.bars {
		c.y += barStep
		c.text(20, b.label, "normal")
		width := 0
		if most > 0 {
			width = int(b.value / most * barMost)
		}
		c.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", labelWidth, c.y-barHeight+3, width, barHeight, b.colour)
		c.text(labelWidth+width+6, number(b.value), "normal")
	}
}
