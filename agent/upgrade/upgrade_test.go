package upgrade

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/dpkg"
)

const simulation = `Reading package lists...
Inst base-files [13.8] (13.8+deb13u1 Debian:13.2/stable, Debian-Security:13/stable-security [amd64])
Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64]) [openssl:amd64 ]
Inst new-one (1.0 toe test:1/stable [all])
Inst local [1] (2 , trixie-security [all])
Inst self [1] (2 Own:1/trixie-security [all])
Conf base-files (13.8+deb13u1 Debian:13.2/stable [amd64])
Inst broken
`

func TestParseSimulation(t *testing.T) {
	want := []Update{
		{"base-files", "13.8", "13.8+deb13u1", "Debian-Security:13/stable-security", true},
		{"libssl3t64", "3.5.1-1", "3.5.1-1+deb13u1", "Debian-Security:13/stable-security", true},
		{"new-one", "", "1.0", "toe test:1/stable", false},
	}
	got := ParseSimulation(simulation)
	if len(got) < 3 || !slices.Equal(got[:3], want) {
		t.Errorf("%+v", got)
	}
	if last := got[len(got)-1]; last.Name != "self" || !last.Security {
		t.Errorf("%+v", last)
	}
}

func TestDownloadSize(t *testing.T) {
	const uris = "'http://deb.example/pool/a.deb' a_1_amd64.deb 1000 SHA256:ab\nReading\n'http://deb.example/b.deb' b.deb 24 MD5Sum:c\n"
	if n := DownloadSize(uris); n != 1024 {
		t.Errorf("%d bytes, want 1024", n)
	}
}

func TestUnhold(t *testing.T) {
	const status = "Package: a\nStatus: hold ok installed\n\nPackage: toe-kernel\nStatus: hold ok installed\nVersion: 1\n\nPackage: b\n"
	got := Unhold(status)
	if !strings.Contains(got, "Package: toe-kernel\nStatus: install ok installed") || !strings.Contains(got, "Package: a\nStatus: hold") {
		t.Errorf("%q", got)
	}
}

func TestCompare(t *testing.T) {
	list := func(words ...string) (out []dpkg.Package) {
		for _, w := range words {
			name, version, _ := strings.Cut(w, " ")
			out = append(out, dpkg.Package{Name: name, Version: version})
		}
		return out
	}
	var got []string
	for _, c := range Compare(list("a 1", "b 1", "c 1"), list("a 1", "b 2", "d 1")) {
		got = append(got, c.String())
	}
	if want := []string{"b 1 -> 2", "- c 1", "+ d 1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What apt says of its progress only ever moves the bar forward, whatever it says.
func TestFollowApt(t *testing.T) {
	var out bytes.Buffer
	w := &worker{out: json.NewEncoder(&out)}
	w.followApt(strings.NewReader("dlstatus:1:50.0:Retrieving\npmstatus:bash:50.0:Unpacking bash\nnonsense\npmstatus:x:900:no\ndlstatus:1:0:back\n"), 40, 85)
	var got []Step
	for d := json.NewDecoder(&out); ; {
		var s Step
		if d.Decode(&s) != nil {
			break
		}
		got = append(got, s)
	}
	if len(got) != 3 || got[0].Percent != 47 || got[1].Percent != 70 || got[1].Text != "Unpacking bash" || got[2].Percent != 70 {
		t.Errorf("%+v", got)
	}
}

func TestLastWords(t *testing.T) {
	for said, want := range map[string]string{
		"Reading\nE: no mirror\nE: no index\nend\n": "E: no mirror; E: no index",
		"a\n\nb\n": "a; b",
		"":         "",
	} {
		if got := lastWords(said); got != want {
			t.Errorf("lastWords(%q) = %q, want %q", said, got, want)
		}
	}
}

func FuzzSimulation(f *testing.F) {
	f.Add(simulation)
	f.Fuzz(func(t *testing.T, text string) {
		for _, u := range ParseSimulation(text) {
			if u.Name == "" || u.To == "" {
				t.Errorf("%+v", u)
			}
		}
	})
}
