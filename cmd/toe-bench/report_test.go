package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/cli"
)

const benchRun = `{"rounds": 3, "seconds": 2, "results": [
  {"name": "tcg/link/round-trip", "value": 600, "unit": "µs", "rounds": [600, 590, 700], "baseline": null, "ratio": null},
  {"name": "tcg/link/round-trip/vs/passt", "value": 600, "unit": "µs", "rounds": [600, 590, 700],
   "baseline": 900, "against": "passt", "ratio": 1.5, "aim": "ratio ≥ 1", "met": true}
], "skipped": [{"name": "tcg/tap-65521", "why": "a reason"}]}`

func TestBenchReport(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := file("run.json", benchRun)
	for _, c := range []struct {
		args   []string
		status int
		says   []string
	}{
		{[]string{run}, 0, []string{"tcg card", "900 (1.50+)", "round trip never longer than on passt", "not measured: tcg/tap-65521: a reason"}},
		{[]string{file("none.json", "{}")}, cli.Failure, []string{"none.json", "no results"}},
		{[]string{filepath.Join(dir, "missing")}, cli.Failure, []string{"missing"}},
		{[]string{run, "--docs", file("plain.md", "no marks\n")}, cli.Failure, []string{"plain.md", "lacks the lines"}},
		{nil, cli.Misuse, nil},
	} {
		status, out, errs := toeBench(t, append([]string{"report"}, c.args...)...)
		if status != c.status {
			t.Errorf("%q: status %d, want %d: %s", c.args, status, c.status, errs)
		}
		for _, text := range c.says {
			if !strings.Contains(out+errs, text) {
				t.Errorf("%q does not say %q:\n%s%s", c.args, text, out, errs)
			}
		}
	}
}

func TestBenchReportMakesChartAndDocument(t *testing.T) {
	dir := t.TempDir()
	run, chart, docs := filepath.Join(dir, "run.json"), filepath.Join(dir, "c.svg"), filepath.Join(dir, "d.md")
	const marks = "a\n<!-- figures: toe bench report FILE --docs THIS -->\n<!-- end of figures -->\nb\n"
	for path, text := range map[string]string{run: benchRun, docs: marks} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if status, out, errs := toeBench(t, "report", run, "--chart", chart, "--docs", docs); status != 0 || out != "" {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	for path, text := range map[string]string{chart: "tcg card, round-trip", docs: "900 (1.50+)"} {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), text) {
			t.Errorf("%s lacks %q (%v):\n%s", path, text, err, b)
		}
	}
}
