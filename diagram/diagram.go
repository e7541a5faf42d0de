// Package diagram draws the topology of a card.yaml as SVG: host, link, card, ports and what they
// are attached to. The same card.yaml gives the same bytes. It looks at no host: what is not in
// card.yaml is its default.
package diagram

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/tail"
)

// Sizes in pixels.
const (
	glyph   = 7.3 // width of a monospace character of 12 px
	line    = 18  // height of a line of text
	padding = 14
	margin  = 16
	gap     = 150 // between two columns
	most    = 44  // characters of one line
)

// box is a rectangle with a title and lines of text.
type box struct {
	class      string
	title      string
	lines      []string
	x, y, w, h float64
}

func (b *box) size() {
	longest := utf8.RuneCountInString(b.title)
	for i, text := range b.lines {
		b.lines[i] = short(text)
		longest = max(longest, utf8.RuneCountInString(b.lines[i]))
	}
	b.w = float64(longest)*glyph + 2*padding
	b.h = float64(len(b.lines)+1)*line + 2*padding
}

// short is a text that fits one line, of characters that print.
func short(text string) string {
	runes := []rune(tail.Visible(text, ""))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

// Draw returns the picture of a card.
func Draw(s spec.Spec) []byte {
	s.Name = cmp.Or(s.Name, spec.DefaultName)
	host, card, wires := hostBox(s), cardBox(s), wireBoxes(s)
	boxes := append([]*box{host, card}, wires...)
	right := 0.0 // height of the column of wires
	widest := 0.0
	for _, b := range boxes {
		b.size()
	}
	for _, w := range wires {
		widest = max(widest, w.w)
		right += w.h + margin
	}
	right = max(right-margin, 0)
	tall := max(host.h, card.h, right)
	host.x, card.x = margin, margin+host.w+gap
	host.h, card.h = max(host.h, tall), max(card.h, tall)
	y := margin + (tall-right)/2
	for _, w := range wires {
		w.x, w.y, w.w = card.x+card.w+gap, y, widest
		y += w.h + margin
	}
	host.y, card.y = margin, margin

	width, height := card.x+card.w+margin, tall+2*margin
	if len(wires) > 0 {
		width += gap + widest
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, head, width, height, width, height, escape("card "+short(s.Name)+": host, link, card and ports"))
	wire(&out, "link", host.x+host.w, card.x, margin+tall/2, "link", "IP, MTU 65535")
	for i, w := range wires {
		p := s.Ports[i]
		below := "MTU 1500"
		if p.MTU > 0 {
			below = fmt.Sprintf("MTU %d", p.MTU)
		}
		wire(&out, "port", card.x+card.w, w.x, w.y+w.h/2, p.Name, below)
	}
	for _, b := range boxes {
		b.draw(&out)
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func hostBox(s spec.Spec) *box {
	b := &box{class: "host", title: "host"}
	name := s.Link.Interface
	if name == "" {
		name = "toe0"
	}
	b.lines = append(b.lines, name)
	if s.Link.DefaultRoute {
		b.lines = append(b.lines, "its own traffic through the card")
	}
	if s.Link.Exec == nil || *s.Link.Exec {
		b.lines = append(b.lines, "toe exec: a namespace behind the card")
	}
	for _, p := range s.Publish {
		b.lines = append(b.lines, "service "+target(p)+" "+protocol(p)+where(p))
	}
	return b
}

func protocol(p spec.Publish) string {
	if p.Protocol == "" {
		return "tcp"
	}
	return p.Protocol
}

func where(p spec.Publish) string {
	if p.In == spec.InExec {
		return " in toe exec"
	}
	return ""
}

func target(p spec.Publish) string {
	text, _ := p.To.MarshalText()
	if p.To.IsZero() {
		return fmt.Sprint(p.Port)
	}
	return string(text)
}

func cardBox(s spec.Spec) *box {
	b := &box{class: "card", title: "card " + short(s.Name)}
	mode := s.Offload.Mode
	b.lines = append(b.lines, mode+" mode",
		fmt.Sprintf("%s, %d CPU, %s", s.Machine.Kind, s.Machine.CPUs, s.Machine.Memory), "firmware "+s.Firmware.Edition)
	for _, list := range []struct {
		name   string
		values []string
	}{
		{"tcp", texts(s.Offload.Bypass.TCP)}, {"udp", texts(s.Offload.Bypass.UDP)}, {"to", texts(s.Offload.Bypass.Addresses)},
	} {
		if len(list.values) > 0 {
			b.lines = append(b.lines, "end to end: "+list.name+" "+strings.Join(list.values, ", "))
		}
	}
	for _, p := range s.Publish {
		b.lines = append(b.lines, fmt.Sprintf("publishes %s %d ← %s", protocol(p), p.Port, target(p)))
	}
	return b
}

func texts[T any](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = fmt.Sprint(v)
	}
	return out
}

// attached says in words what a port leads to.
var attached = map[spec.AttachKind]string{
	spec.AttachUser: "the host's network (passt)", spec.AttachTAP: "TAP", spec.AttachBridge: "bridge",
	spec.AttachMacvtap: "macvtap on", spec.AttachNetns: "namespace",
}

func wireBoxes(s spec.Spec) []*box {
	var boxes []*box
	for _, p := range s.Ports {
		kind := p.Attach.Kind
		if kind == "" {
			kind = spec.AttachUser
		}
		b := &box{class: "wire", title: strings.TrimSpace(attached[kind] + " " + p.Attach.Name)}
		if p.Attach.Device != "" {
			b.lines = append(b.lines, "device "+p.Attach.Device)
		}
		if len(p.Addresses) > 0 {
			for _, a := range p.Addresses {
				b.lines = append(b.lines, "card: "+string(a))
			}
		} else {
			b.lines = append(b.lines, "card: dhcp, ra")
		}
		for _, g := range p.Gateway {
			b.lines = append(b.lines, "gateway "+g.String())
		}
		boxes = append(boxes, b)
	}
	return boxes
}

const head = `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img">
<title>%s</title>
<style>
text { font: 12px ui-monospace, monospace; fill: #1b1f24; }
.title { font-weight: bold; }
.label { text-anchor: middle; }
rect { stroke: #57606a; rx: 6px; }
.host { fill: #eaf2fb; } .card { fill: #e9f6ec; } .wire { fill: #f6f0e2; }
line { stroke: #57606a; stroke-width: 2; } .link { stroke: #0969da; stroke-width: 4; }
.paper { fill: #ffffff; stroke: none; }
</style>
<rect class="paper" width="100%%" height="100%%"/>
`

func wire(out *bytes.Buffer, class string, from, to, y float64, above, below string) {
	fmt.Fprintf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, from, y, to, y)
	middle := (from + to) / 2
	fmt.Fprintf(out, "<text class=\"label title\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", middle, y-8, escape(short(above)))
	fmt.Fprintf(out, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", middle, y+18, escape(short(below)))
}

func (b *box) draw(out *bytes.Buffer) {
	fmt.Fprintf(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", b.class, b.x, b.y, b.w, b.h)
	y := b.y + padding + 12
	fmt.Fprintf(out, "<text class=\"title\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", b.x+padding, y, escape(short(b.title)))
	for _, text := range b.lines {
		y += line
		fmt.Fprintf(out, "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n", b.x+padding, y, escape(text))
	}
}

func escape(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}
