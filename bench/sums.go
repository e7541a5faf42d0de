package bench

import (
	"fmt"
	"path"
)

// sums returns, for each aim, how many figures meet it, as rows with a head.
func (rep Report) sums() [][]string {
	rows := [][]string{{"aim", "figures", "lowest and highest", ""}}
	for _, a := range aims {
		var values []float64
		met := 0
		for _, res := range rep.Results {
			if fits, _ := path.Match(a.pattern, res.Name); !fits || res.Met == nil {
				continue
			}
			if *res.Met {
				met++
			}
			if a.ratio > 0 {
				values = append(values, *res.Ratio)
			} else {
				values = append(values, res.Value)
			}
		}
		if n := len(values); n > 0 {
			rows = append(rows, []string{a.text, a.pattern, ends(values), tally(met, n)})
		}
	}
	return rows
}

func ends(values []float64) string {
	if len(values) == 1 {
		return number(values[0])
	}
	return spread(values)
}

func tally(met, n int) string {
	switch {
	case met == n:
		return "met"
	case met == 0:
		return "not met"
	}
	return fmt.Sprintf("%d of %d met", met, n)
}
