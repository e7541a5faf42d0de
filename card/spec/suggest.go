package spec

import "fmt"

// DidYouMean is a suggestion to append to an error, or nothing when no
// candidate is near.
func DidYouMean(got string, candidates ...string) string {
	if best := Nearest(got, candidates...); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// Nearest is the candidate within a few typing errors of got, or "".
func Nearest(got string, candidates ...string) string {
	best, bestDistance := "", 1+len(got)/3
	for _, c := range candidates {
		if d := distance(got, c); d <= bestDistance && d < len(c) {
			if d < bestDistance || best == "" {
				best, bestDistance = c, d
			}
		}
	}
	return best
}

// distance is the number of insertions, removals, changes and swaps of
// neighbours between a and b. Long strings are no typing errors: they are
// far from everything, so that the work stays bounded.
func distance(a, b string) int {
	const tooLong = 64
	if len(a) > tooLong || len(b) > tooLong {
		return 2 * tooLong
	}
	two, one, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range one {
		one[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(one[j]+1, cur[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], two[j-2]+1)
			}
		}
		two, one, cur = one, cur, two
	}
	return one[len(b)]
}
