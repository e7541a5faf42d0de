package bench

import (
	"io"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// WriteBench writes every round of every figure in Go's benchmark format
// (golang.org/design/14313-benchmark-format), which benchstat reads. The name's key "by" says what
// was measured, the link or a competitor: `benchstat -col /by` compares them. Units are without
// prefix.
func (rep Report) WriteBench(w io.Writer) error {
	all := rep.samples()
	out := benchfmt.NewWriter(w)
	for _, m := range metadata(all) {
		if err := out.Write(&m); err != nil {
			return err
		}
	}
	config := rep.Host.config()
	for _, s := range all {
		name := benchfmt.Name("Toe/by=" + s.by + "/" + s.name)
		for _, v := range s.rounds {
			err := out.Write(&benchfmt.Result{
				Config: config, Name: name, Iters: 1,
				Values: []benchfmt.Value{{Value: v * s.unit.factor, Unit: s.unit.name}},
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// config describes the host, with the keys of Go's own benchmarks.
func (h Host) config() (out []benchfmt.Config) {
	for _, c := range [][2]string{
		{"goos", runtime.GOOS}, {"goarch", h.Arch}, {"cpu", h.Model}, {"kernel", h.Kernel},
		{"toe", h.Toe},
	} {
		if c[1] != "" {
			out = append(out, benchfmt.Config{Key: c[0], Value: []byte(c[1]), File: true})
		}
	}
	return out
}

// sample is the rounds of one figure by one contestant.
type sample struct {
	name, by string
	unit     baseUnit
	rounds   []float64
}

// samples are the rounds of all figures, and then those baselines that are not
// figures themselves.
func (rep Report) samples() (out []sample) {
	seen := map[[2]string]bool{}
	add := func(name, by, unit string, rounds []float64) {
		if key := [2]string{name, by}; !seen[key] && len(rounds) > 0 {
			seen[key] = true
			out = append(out, sample{name, by, base(unit), rounds})
		}
	}
	for _, res := range rep.Results {
		if name, by := contestant(res.Name); !strings.Contains(res.Name, versus) {
			add(name, by, res.Unit, res.Rounds)
		}
	}
	for _, res := range rep.Results {
		name, _, _ := strings.Cut(res.Name, versus)
		name, _ = contestant(name)
		add(name, word(res.Against), res.Unit, res.BaselineRounds)
	}
	return out
}

// contestant splits the name of a figure into what was measured and by what:
// KIND/link/… by the link, KIND/WORK/LOAD/WAY/FIGURE by the way.
func contestant(full string) (name, by string) {
	part := strings.Split(full, "/")
	isLoad := func(l load) bool { return l.name == part[2] }
	switch {
	case len(part) > 2 && part[1] == "link":
		return part[0] + "/" + strings.Join(part[2:], "/"), part[1]
	case len(part) == 5 && slices.ContainsFunc(loads, isLoad):
		return strings.Join(slices.Delete(part, 3, 4), "/"), strings.Split(full, "/")[3]
	}
	return full, "toe"
}

// word converts a text to a part of a benchmark's name.
func word(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return r <= ' ' || strings.ContainsRune(`/=,;'"`, r)
	}), "-")
}

// baseUnit is a unit without prefix, and its factor.
type baseUnit struct {
	name   string
	factor float64
}

var baseUnits = map[string]baseUnit{
	"s": {"sec", 1}, "ms": {"sec", 1e-3}, "µs": {"sec", 1e-6}, "ns": {"sec", 1e-9},
	"Gbit": {"bit", 1e9}, "MiB": {"B", 1 << 20}, "KiB": {"B", 1 << 10},
}

func base(unit string) baseUnit {
	what, per, slash := strings.Cut(unit, "/")
	u, ok := baseUnits[what]
	if !ok {
		return baseUnit{unit, 1}
	}
	if slash {
		u.name += "/" + per
	}
	return u
}

// metadata says for each unit which direction is better, and that no distribution of its values is
// assumed.
func metadata(all []sample) (out []benchfmt.UnitMetadata) {
	var done []string
	for _, s := range all {
		if slices.Contains(done, s.unit.name) {
			continue
		}
		done = append(done, s.unit.name)
		better := "lower"
		if what, per, _ := strings.Cut(s.unit.name, "/"); per == "s" && what != "sec" || what == "cards" {
			better = "higher"
		}
		for _, kv := range [][2]string{{"assume", "nothing"}, {"better", better}} {
			out = append(out, benchfmt.UnitMetadata{
				UnitMetadataKey: benchfmt.UnitMetadataKey{Unit: s.unit.name, Key: kv[0]},
				OrigUnit:        s.unit.name, Value: kv[1],
			})
		}
	}
	return out
}
