package feature

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// memory is a text, as sizes are.
type memory int

func (m *memory) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "%dMiB", (*int)(m))
	return err
}

type inner struct {
	Kind  string `yaml:"kind" json:"kind" enum:"one|two" default:"one"`
	Count int    `yaml:"count" json:"count" min:"1" max:"8" default:"3"`
	On    bool   `yaml:"on" json:"on" default:"true"`
	Size  memory `yaml:"size" default:"256MiB"`
}

type outer struct {
	inner `yaml:",inline"`
	Name  string      `yaml:"name" json:"-" absent:"one of its own"`
	List  []inner     `yaml:"list" json:"list"`
	Ports []PortRange `yaml:"ports" json:"ports" max:"2"`
	Must  string      `yaml:"must" enum:"a|b"`
	none  int
}

// TestFields: an embedded struct's fields are the struct's own, and what has no
// key is left out.
func TestFields(t *testing.T) {
	keys := func(kind string) (out []string) {
		for f := range Fields(reflect.TypeFor[outer](), kind) {
			out = append(out, f.Key)
		}
		return out
	}
	if got := keys("yaml"); !slices.Equal(got, []string{"kind", "count", "on", "size", "name", "list", "ports", "must"}) {
		t.Errorf("yaml %q", got)
	}
	if got := keys("json"); !slices.Equal(got, []string{"kind", "count", "on", "list", "ports"}) {
		t.Errorf("json %q", got)
	}
}

func TestFill(t *testing.T) {
	v := outer{inner: inner{Count: 7}, List: []inner{{Kind: "two"}, {}}, none: 1}
	Fill(&v)
	want := outer{inner: inner{Kind: "one", Count: 7, Size: 256}, List: []inner{{Kind: "two", Count: 3, Size: 256}, {Kind: "one", Count: 3, Size: 256}}, none: 1}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got %+v, want %+v", v, want)
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*outer)
		want   string
	}{
		"nothing":         {func(*outer) {}, ""},
		"absent":          {func(o *outer) { o.Kind, o.Count = "", 0 }, ""},
		"enum":            {func(o *outer) { o.Kind = "tow" }, `at.kind: "tow": must be one, two; did you mean "two"?`},
		"number":          {func(o *outer) { o.Count = 9 }, "at.count: 9: between 1 and 8"},
		"in a list":       {func(o *outer) { o.List[0].Count = -1 }, "at.list[0].count: -1: between 1 and 8"},
		"long list":       {func(o *outer) { o.Ports = make([]PortRange, 3) }, "at.ports: 3 entries: between 0 and 2"},
		"a type's own":    {func(o *outer) { o.Ports = []PortRange{{9, 8}} }, "at.ports[0]: 9-8: not a port"},
		"without default": {func(o *outer) { o.Must = "" }, `at.must: "": must be a, b`},
	} {
		v := outer{List: []inner{{}}, Must: "a"}
		Fill(&v)
		tt.change(&v)
		var got []string
		Check("at", v, func(path, format string, args ...any) {
			got = append(got, path+": "+fmt.Sprintf(format, args...))
		})
		if all := strings.Join(got, "; "); !strings.HasPrefix(all, tt.want) || tt.want == "" && all != "" {
			t.Errorf("%s: %q, want %q", name, all, tt.want)
		}
	}
}

// TestCheckMode: what means nothing in a mode is an error there.
func TestCheckMode(t *testing.T) {
	for mode, want := range map[string]string{"endpoint": "", "router": `at.mdns: true: only mode: endpoint has it; at.congestion: "bbr": only mode: endpoint has it`} {
		var got []string
		report := func(path, format string, args ...any) { got = append(got, path+": "+fmt.Sprintf(format, args...)) }
		CheckMode("at", mode, Offload{MDNS: true, Congestion: "bbr"}, report)
		CheckMode("at", mode, Offload{Congestion: "cubic"}, report)
		if all := strings.Join(got, "; "); all != want {
			t.Errorf("%s: %q, want %q", mode, all, want)
		}
	}
}

// TestForms: how each type looks in card.yaml and in card.json.
func TestForms(t *testing.T) {
	prefix := func(s string) Range { return Range{netip.MustParsePrefix(s)} }
	for _, tt := range []struct {
		value      any
		yaml, json string
	}{
		{PortRange{22, 22}, "22", `{"first":22,"last":22}`},
		{PortRange{8000, 8010}, "8000-8010", `{"first":8000,"last":8010}`},
		{prefix("10.0.0.0/8"), "10.0.0.0/8", `"10.0.0.0/8"`},
		{prefix("192.0.2.7/32"), "192.0.2.7", `"192.0.2.7/32"`},
		{prefix("2001:db8::7/128"), "2001:db8::7", `"2001:db8::7/128"`},
		{DSCP(46), "46", "46"},
	} {
		y, err := yaml.Marshal(tt.value)
		if err != nil || strings.TrimSpace(string(y)) != tt.yaml {
			t.Errorf("%v in yaml: %s, %v, want %s", tt.value, y, err, tt.yaml)
		}
		j, err := json.Marshal(tt.value)
		if err != nil || string(j) != tt.json {
			t.Errorf("%v in json: %s, %v, want %s", tt.value, j, err, tt.json)
		}
		back := reflect.New(reflect.TypeOf(tt.value))
		if err := json.Unmarshal(j, back.Interface()); err != nil || back.Elem().Interface() != tt.value {
			t.Errorf("%s is read as %v, %v", j, back.Elem(), err)
		}
		if err := back.Interface().(interface{ UnmarshalText([]byte) error }).UnmarshalText([]byte(tt.yaml)); err != nil || back.Elem().Interface() != tt.value {
			t.Errorf("%s is read as %v, %v", tt.yaml, back.Elem(), err)
		}
	}
	for _, bad := range []string{`"x"`, `{"first":70000}`, `[]`} {
		if json.Unmarshal([]byte(bad), new(PortRange)) == nil {
			t.Errorf("%s is taken for a range of ports", bad)
		}
	}
}
