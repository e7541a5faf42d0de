package spec

import "testing"

// An empty list says the same as none.
func TestDiffOfWhatIsTheSame(t *testing.T) {
	written := Default("edge")
	empty, err := Parse("card.yaml", []byte("dns: {servers: [], search: []}\ntime: {servers: []}\nports: [{name: wan, gateway: [], dns: []}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if live, restart := Diff(written, empty); len(live)+len(restart) > 0 {
		t.Errorf("differs: %q %q", live, restart)
	}
	if live, _ := Diff(written, mustParse(t, "dns: {servers: [192.0.2.1]}\n")); len(live) != 1 {
		t.Errorf("a resolver: %q", live)
	}
}

func mustParse(t *testing.T, text string) Spec {
	s, err := Parse("card.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
