package bench

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		rounds []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.rounds); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.rounds, got, c.want)
		}
	}
}

// Less time and more throughput are better, and a ratio above 1 says so.
func TestRatiosAndAims(t *testing.T) {
	for _, c := range []struct {
		name, unit  string
		value, base float64
		higher      bool
		ratio       float64
		aim         string // "" for none
		met         bool
	}{
		{"pump/to-host/64/cpu", "ns/packet", 200, 150, false, 0.75, "ratio ≥ 0.7", true},
		{"pump/to-host/65535/cpu", "ns/packet", 200, 150, false, 0.75, "ratio ≥ 0.9", false},
		{"pump/to-card/65535/cpu/same-layout", "ns/packet", 100, 100, false, 1, "ratio ≥ 0.9", true},
		{"pump/to-host/1400/cpu", "ns/packet", 200, 150, false, 0.75, "", false},
		{"uml/link/to-card/1/throughput", "Gbit/s", 20, 10, true, 2, "≥ 12 Gbit/s", true},
		{"uml/link/to-host/1/pump-cpu", "s/GiB", 0.4, 0.1, false, 0.25, "ratio ≥ 0.5", false},
		{"tcg/link/to-host/4/throughput/vs/tap-65521", "Gbit/s", 2, 1.6, true, 1.25, "ratio ≥ 1", true},
		{"tcg/link/to-host/4/throughput/vs/passt", "Gbit/s", 1, 2, true, 0.5, "ratio ≥ 1", false},
		{"tcg/link/to-host/1/host-cpu/vs/tap-1500-plain", "s/GiB", 1, 4, false, 4, "ratio ≥ 4", true},
		{"uml/link/to-host/1/host-cpu/vs/link-1500-plain", "s/GiB", 1, 3, false, 3, "ratio ≥ 4", false},
		{"tcg/link/to-host/1/host-cpu/vs/tap-1500-tso", "s/GiB", 1, 3, false, 3, "ratio ≥ 1", true},
		{"uml/link/to-host/1/throughput/vs/link-1500-tso", "Gbit/s", 1, 3, true, 1.0 / 3, "", false},
		{"tcg/up/ready/vs/bare", "s", 2.5, 2.25, false, 0.9, "ratio ≥ 0.83", true},
		{"uml/up/ready", "s", 0.3, 0.3, false, 1, "≤ 0.4 s", true},
		{"tcg/up/ready", "s", 3, 3, false, 1, "", false},
		{"uml/cards/20/answered", "cards", 19, 19, true, 1, "≥ 20 cards", false},
	} {
		r := &run{}
		res := r.add(c.name, c.unit, []float64{c.value})
		if c.higher {
			res.higher([]float64{c.base}, "base")
		} else {
			res.lower([]float64{c.base}, "base")
		}
		r.judge()
		got := r.report.Results[0]
		if *got.Ratio != c.ratio || got.Aim != c.aim || (got.Met != nil) != (c.aim != "") || got.Met != nil && *got.Met != c.met {
			t.Errorf("%s: %+v (ratio %v), want ratio %v, aim %q, met %v", c.name, got, *got.Ratio, c.ratio, c.aim, c.met)
		}
	}
}

func TestChartIsXML(t *testing.T) {
	r := &run{}
	r.add("a<b&c", "s", []float64{1}).lower([]float64{2}, "")
	r.add("zero", "µs", []float64{0})
	var b bytes.Buffer
	if err := r.report.Chart(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(&b); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPacketHasARightChecksum(t *testing.T) {
	p, sum := ipPacket(1400), uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		t.Errorf("the header adds up to %#x, want 0xffff", sum)
	}
}
