package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/cli"
)

func TestParseCopy(t *testing.T) {
	for _, c := range []struct {
		args string
		want copyJob
		err  string
	}{
		{args: "a edge:/b", want: copyJob{card: "edge", sources: []string{"a"}, target: "/b"}},
		{args: "a b edge:", want: copyJob{card: "edge", sources: []string{"a", "b"}}},
		{args: "edge:a edge:/b .", want: copyJob{card: "edge", from: true, sources: []string{"a", "/b"}, target: "."}},
		{args: "./a:b edge:c:d", want: copyJob{card: "edge", sources: []string{"./a:b"}, target: "c:d"}},
		{args: "a b", err: "neither"},
		{args: "edge:a other:b", err: "both on a card"},
		{args: "edge:a other:b .", err: "want one card"},
		{args: "a edge:b .", err: "neither"},
		{args: "edge: .", err: "want a path after the colon"},
		{args: "a UPPER:b", err: "card name"},
		{args: "a :b", err: "card name"},
	} {
		got, err := parseCopy(strings.Fields(c.args))
		if c.err != "" {
			var usage cli.Usage
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.args, got, err, c.want)
		}
	}
}
