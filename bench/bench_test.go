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
	r := &run{}
	r.add("pump/to-host/64/cpu", "ns/packet", []float64{200}).lower([]float64{150}, "bare")
	r.add("pump/to-host/65535/cpu", "ns/packet", []float64{200}).lower([]float64{150}, "bare")
	r.add("link/to-card/1/throughput", "Gbit/s", []float64{20}).higher([]float64{10}, "other")
	r.report.Host.Machine = "uml"
	r.judge()
	for i, want := range []struct {
		ratio float64
		met   bool
	}{{0.75, true}, {0.75, false}, {2, true}} {
		res := r.report.Results[i]
		if *res.Ratio != want.ratio || res.Met == nil || *res.Met != want.met {
			t.Errorf("%s: ratio %v, met %v, want %+v", res.Name, *res.Ratio, res.Met, want)
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
