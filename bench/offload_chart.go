package bench

import (
	"fmt"
	"io"
	"strings"
)

// Sizes of the chart in pixels.
const (
	offloadWidth = 760
	offloadBars  = 480
	offloadLeft  = 150
	offloadThick = 14
	offloadStep  = 18
)

// OffloadChart draws CPU seconds by the GiB as bars: the host's, and behind
// it, lighter, that of the card's own CPU, a group for each kind, work and load.
func (rep Report) OffloadChart(w io.Writer) error {
	rows, most := rep.offloadRows()
	c := &canvas{w: w, y: 24}
	height := 60 + offloadStep*len(rows)
	for i, r := range rows {
		if i == 0 || r.group != rows[i-1].group {
			height += 2 * offloadStep
		}
	}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", offloadWidth, height)
	c.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	c.text(10, fmt.Sprintf("toe bench offload: CPU seconds by the GiB; %s, %d CPUs", rep.Host.Kernel, rep.Host.CPUs), "bold")
	c.y += offloadStep
	c.text(10, "dark: the host's (green: aim met, orange: not met); light: the card's own; figures: both. A scale for each group.", "normal")
	for i, r := range rows {
		if i == 0 || r.group != rows[i-1].group {
			c.y += 2 * offloadStep
			c.text(10, r.group, "bold")
		}
		c.y += offloadStep
		c.text(20, r.way, "normal")
		c.twoBars(r, most[r.group])
	}
	c.printf("</svg>\n")
	return c.err
}

// offloadBar is a way's figures of one load.
type offloadBar struct {
	group, way string
	host, card Result
}

// offloadRows are the bars in their order, and the end of each group's scale.
func (rep Report) offloadRows() (rows []offloadBar, most map[string]float64) {
	cards, most := map[string]Result{}, map[string]float64{}
	for _, res := range rep.Results {
		if name, ok := strings.CutSuffix(res.Name, "/card-cpu"); ok {
			cards[name] = res
		}
	}
	for _, res := range rep.Results {
		name, ok := strings.CutSuffix(res.Name, "/host-cpu")
		if !ok || res.Unit != "s/GiB" {
			continue
		}
		at := strings.LastIndexByte(name, '/')
		b := offloadBar{strings.ReplaceAll(name[:at], "/", ", "), name[at+1:], res, cards[name]}
		rows = append(rows, b)
		// A card with an emulated CPU may be off the scale: its bar is cut.
		most[b.group] = max(most[b.group], 1.5*res.Value)
	}
	return rows, most
}

func (c *canvas) twoBars(r offloadBar, most float64) {
	width := func(v float64) int { return int(min(v/most, 1) * offloadBars) }
	top := c.y - offloadThick + 4
	host := width(r.host.Value)
	card := min(width(r.host.Value+r.card.Value), offloadBars) - host
	c.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", offloadLeft, top, host, offloadThick, offloadColour(r.host))
	c.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="#d7dde3"/>`+"\n", offloadLeft+host, top, max(card, 0), offloadThick)
	c.text(offloadLeft+offloadBars+10, fmt.Sprintf("%s + %s", number(r.host.Value), number(r.card.Value)), "normal")
}

// offloadColour tells figures with an aim, met or not, from those without.
func offloadColour(res Result) string {
	switch {
	case res.Met == nil:
		return "#6b8fb5"
	case *res.Met:
		return "#5a9e6f"
	}
	return "#c77d4f"
}
