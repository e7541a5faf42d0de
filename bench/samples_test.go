package bench

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// The reader of benchstat reads back what is written: each round of each figure once, and no
// baseline twice that is a figure of its own.
func TestBenchFormatIsReadBack(t *testing.T) {
	tso := tapName1500(true)
	rep := Report{Host: Host{Arch: "amd64", Model: "A CPU", Toe: "v1"}, Results: []Result{
		{Name: "uml/link/round-trip", Unit: "µs", Rounds: []float64{600, 590}},
		{Name: "uml/link/round-trip/vs/tap-65521", Unit: "µs", Rounds: []float64{600, 590},
			BaselineRounds: []float64{900}, Against: "tap-65521"},
		{Name: "uml/link/to-card/1/throughput", Unit: "Gbit/s", Rounds: []float64{12}},
		{Name: "pump/to-card/64/cpu", Unit: "ns/packet", Rounds: []float64{500},
			BaselineRounds: []float64{400}, Against: "bare system calls, one hot buffer"},
		{Name: "tcg/plain/send/endpoint/host-cpu", Unit: "s/GiB", Rounds: []float64{0.1},
			BaselineRounds: []float64{0.5}, Against: tso},
		{Name: "tcg/plain/send/" + tso + "/host-cpu", Unit: "s/GiB", Rounds: []float64{0.5}},
		{Name: "uml/memory/pump", Unit: "MiB", Rounds: []float64{2}},
	}}
	want := []string{
		"Toe/by=link/uml/round-trip 0.0006 sec", "Toe/by=link/uml/round-trip 0.00059 sec",
		"Toe/by=link/uml/to-card/1/throughput 1.2e+10 bit/s",
		"Toe/by=toe/pump/to-card/64/cpu 5e-07 sec/packet",
		"Toe/by=endpoint/tcg/plain/send/host-cpu 0.1 sec/GiB",
		"Toe/by=" + tso + "/tcg/plain/send/host-cpu 0.5 sec/GiB",
		"Toe/by=toe/uml/memory/pump 2097152 B",
		"Toe/by=tap-65521/uml/round-trip 0.0009 sec",
		"Toe/by=bare-system-calls-one-hot-buffer/pump/to-card/64/cpu 4e-07 sec/packet",
	}
	var b bytes.Buffer
	if err := rep.WriteBench(&b); err != nil {
		t.Fatal(err)
	}
	var got []string
	r := benchfmt.NewReader(&b, "report")
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.SyntaxError:
			t.Error(rec)
		case *benchfmt.Result:
			v := rec.Values[0]
			got = append(got, fmt.Sprintf("%s %.9g %s", rec.Name, v.Value, v.Unit))
			if rec.GetConfig("cpu") != "A CPU" || rec.GetConfig("toe") != "v1" {
				t.Errorf("%s: the host is %v", rec.Name, rec.Config)
			}
		}
	}
	if r.Err() != nil || !slices.Equal(got, want) {
		t.Errorf("%v: read\n%q\nwant\n%q", r.Err(), got, want)
	}
	units := r.Units()
	for unit, way := range map[string]int{"bit/s": 1, "sec": -1, "sec/GiB": -1, "B": -1} {
		if units.GetBetter(unit) != way {
			t.Errorf("%s: better %d, want %d", unit, units.GetBetter(unit), way)
		}
	}
}
