package dpkg

import "testing"

const testStatus = `Package: bash
Essential: yes
Status: install ok installed
Maintainer: Matthias <doko@debian.org>
Architecture: amd64
Version: 5.2.37-2+b5
Source: bash (5.2.37-2)
Conffiles:
 /etc/bash.bashrc 3269b0cc
Description: GNU shell
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.152
`

func TestParse(t *testing.T) {
	all, err := Parse([]byte(testStatus))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Name: "adduser", Version: "3.152", Arch: "all", Source: "adduser", SourceVersion: "3.152"},
		{Name: "bash", Version: "5.2.37-2+b5", Arch: "amd64", Source: "bash", SourceVersion: "5.2.37-2",
			Maintainer: "Matthias <doko@debian.org>"},
	}
	if len(all) != len(want) || all[0] != want[0] || all[1] != want[1] {
		t.Errorf("%+v", all)
	}
	for _, bad := range []string{"", "Package: x\nStatus: install ok installed\nVersion: 1\n"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(testStatus))
	f.Add([]byte("Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nSource: b ()\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Parse(text)
		for _, p := range all {
			if err != nil || p.Name == "" || p.Version == "" || p.Arch == "" || p.Source == "" {
				t.Errorf("%+v, %v", p, err)
			}
		}
	})
}
