package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"reflect"
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
	rep := figures()
	rep.Host.Kernel = "a<b&c"
	var b bytes.Buffer
	if err := rep.Chart(&b); err != nil {
		t.Fatal(err)
	}
	bars := 0
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if want := 1 + 3 + 3; bars != want { // the ground, the link and two rivals, the pump and two baselines
		t.Errorf("%d rectangles, want %d", bars, want)
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

// figures is a report with a comparison in which one aim is met and one not.
func figures() Report {
	r := &run{report: Report{Rounds: 3, Seconds: 2}}
	r.add("pump/to-host/64/cpu", "ns/packet", []float64{200}).lower([]float64{150}, "bare")
	r.add("pump/to-host/64/cpu/same-layout", "ns/packet", []float64{200}).lower([]float64{250}, "bare")
	r.add("tcg/link/to-card/1/throughput", "Gbit/s", []float64{2, 3, 1})
	r.add("tcg/link/to-card/1/throughput/vs/tap-65521", "Gbit/s", []float64{2, 3, 1}).higher([]float64{4}, "tap-65521")
	r.add("tcg/link/to-card/1/throughput/vs/passt", "Gbit/s", []float64{2, 3, 1}).higher([]float64{1}, "passt")
	r.skip("a<b", "why & what")
	r.judge()
	return r.report
}

func TestPivot(t *testing.T) {
	all := figures().pivots()
	if len(all) != 1 || len(all[0].rows) != 1 {
		t.Fatalf("%d pivots", len(all))
	}
	got := all[0].cells()
	want := [][]string{
		{"tcg card", "link", "unit", "tap-65521", "passt"},
		{"to-card/1/throughput", "2.00", "Gbit/s", "4.00 (0.50!)", "1.00 (2.00+)"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSums(t *testing.T) {
	got := figures().sums()[1:]
	want := [][]string{
		{"pump at 64 bytes 0.7 of bare calls, one hot buffer", "pump/to-*/64/cpu", "0.75", "met"},
		{"the same, buffers like the card's", "pump/to-*/64/cpu/same-layout", "1.25", "met"},
		{"throughput never below QEMU's tap", "*/link/to-*/*/throughput/vs/tap-*", "0.50", "not met"},
		{"throughput never below passt", "*/link/to-*/*/throughput/vs/passt", "2.00", "met"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A report reads back as it was printed, and a document gets it once.
func TestReportSurvives(t *testing.T) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(figures()); err != nil {
		t.Fatal(err)
	}
	rep, err := ReadReport(&b)
	if err != nil || !reflect.DeepEqual(rep, figures()) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, rep, figures())
	}
	doc := []byte("before\n" + figuresBegin + "old\n" + figuresEnd + "\nafter\n")
	once, err := rep.Into(doc)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := rep.Into(once)
	if err != nil || !bytes.Equal(once, twice) {
		t.Errorf("a second Into changes the document, %v", err)
	}
	for _, text := range []string{"before\n", "to-card/1/throughput", "not measured: a<b: why & what", "\nafter\n"} {
		if !bytes.Contains(once, []byte(text)) {
			t.Errorf("the document lacks %q:\n%s", text, once)
		}
	}
	if bytes.Contains(once, []byte("old")) {
		t.Error("the old figures are still there")
	}
	if _, err := rep.Into([]byte("no marks")); err == nil {
		t.Error("a document without marks was accepted")
	}
	for _, bad := range []string{"", "[]", "{}", `{"results":[]}`} {
		if _, err := ReadReport(bytes.NewReader([]byte(bad))); err == nil {
			t.Errorf("%q was accepted as a report", bad)
		}
	}
}
