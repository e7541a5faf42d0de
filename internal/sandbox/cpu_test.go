package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFewestCards(t *testing.T) {
	var set unix.CPUSet
	for _, cpu := range []int{1, 3, 6} {
		set.Set(cpu)
	}
	for i, c := range []struct {
		taken map[int]int
		want  map[int]bool
	}{
		{nil, map[int]bool{1: true, 3: true, 6: true}},
		{map[int]int{1: 1}, map[int]bool{3: true, 6: true}},
		{map[int]int{1: 2, 3: 1, 6: 1}, map[int]bool{3: true, 6: true}},
		{map[int]int{0: 0, 1: 2, 3: 3, 6: 4}, map[int]bool{1: true}},
	} {
		seen := map[int]bool{}
		for range 200 {
			cpu := fewest(&set, c.taken)
			if !c.want[cpu] {
				t.Fatalf("case %d: CPU %d, want one of %v", i, cpu, c.want)
			}
			seen[cpu] = true
		}
		if len(seen) != len(c.want) {
			t.Errorf("case %d: of %v only %v in 200 tries", i, c.want, seen)
		}
	}
}
