// Package textdiff shows how two texts differ, as diff -u does.
package textdiff

import (
	"fmt"
	"strings"
)

const (
	around = 3    // equal lines around a change
	most   = 4000 // lines of a text that are compared; a longer one is shown as a whole
)

// Unified returns the differences, or "" where there is none. The texts have the names a and b.
func Unified(a, b, from, to string) string {
	if from == to {
		return ""
	}
	ops := compare(lines(from), lines(to))
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", a, b)
	for i := 0; i < len(ops); {
		if ops[i].kind == ' ' {
			i++
			continue
		}
		begin, end := max(0, i-around), i+1
		for j := i + 1; j < len(ops) && j-end <= 2*around; j++ {
			if ops[j].kind != ' ' {
				end = j + 1
			}
		}
		end = min(len(ops), end+around)
		hunk(&out, ops, begin, end)
		i = end
	}
	return out.String()
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// op is a line that both texts have (' '), the first only ('-') or the second only ('+').
type op struct {
	kind byte
	text string
}

func hunk(out *strings.Builder, ops []op, begin, end int) {
	at, n := map[byte]int{}, map[byte]int{}
	for i, o := range ops[:end] {
		count := n
		if i < begin {
			count = at
		}
		if o.kind != '+' {
			count['-']++
		}
		if o.kind != '-' {
			count['+']++
		}
	}
	first := func(k byte) int { return at[k] + min(n[k], 1) }
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", first('-'), n['-'], first('+'), n['+'])
	for _, o := range ops[begin:end] {
		fmt.Fprintf(out, "%c%s\n", o.kind, o.text)
	}
}

// compare finds a longest common subsequence, by the table of its lengths.
func compare(a, b []string) []op {
	var head, tail []op
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head, a, b = append(head, op{' ', a[0]}), a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail, a, b = append([]op{{' ', a[len(a)-1]}}, tail...), a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) > most || len(b) > most {
		for _, l := range a {
			head = append(head, op{'-', l})
		}
		for _, l := range b {
			head = append(head, op{'+', l})
		}
		return append(head, tail...)
	}
	table := make([][]int32, len(a)+1)
	for i := range table {
		table[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			head = append(head, op{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && table[i+1][j] >= table[i][j+1]:
			head = append(head, op{'-', a[i]})
			i++
		default:
			head = append(head, op{'+', b[j]})
			j++
		}
	}
	return append(head, tail...)
}
