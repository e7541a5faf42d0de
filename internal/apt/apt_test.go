package apt

import (
	"slices"
	"strings"
	"testing"
)

func TestParseSources(t *testing.T) {
	tests := []struct {
		name           string
		list, deb822   string
		main, security string
	}{
		{
			name: "deb822",
			deb822: "# comment\nTypes: deb deb-src\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
				"Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\n",
			main: "http://mirror.test/debian", security: "http://mirror.test/debian-security",
		},
		{
			name: "one line",
			list: "# deb http://commented.test/debian trixie main\n" +
				"deb-src http://source.test/debian trixie main\n" +
				"deb [ arch=amd64 signed-by=/x/debian-archive-keyring.gpg ]\thttp://mirror.test/debian trixie main contrib # why\n" +
				"deb http://security.test/debian-security trixie-security main\n",
			main: "http://mirror.test/debian", security: "http://security.test/debian-security",
		},
		{
			name: "others with Debian's suite names come last",
			list: "deb [signed-by=/x/other.gpg] https://other.test/debian trixie main\n" +
				"deb http://deb.test/debian trixie main\n",
			main: "http://deb.test/debian",
		},
		{
			name: "an odd path when there is no other",
			list: "deb http://cache.test/d13 stable main\n",
			main: "http://cache.test/d13",
		},
		{
			name: "mirror list of cloud images",
			list: "deb mirror+file:/etc/apt/mirrors/debian.list trixie main\n",
			main: "mirror+file:/etc/apt/mirrors/debian.list",
		},
		{
			name:   "disabled, cdrom, other distributions",
			list:   "deb cdrom:[Debian]/ trixie main\ndeb http://archive.test/ubuntu noble main\ndeb https://x.test/repo nodistro main\n",
			deb822: "Types: deb\nEnabled: no\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\n",
		},
		{
			name: "not main",
			list: "deb http://mirror.test/debian trixie contrib\n",
		},
		{
			name:   "folded fields and inline key",
			deb822: "Types: deb\nURIs:\n http://mirror.test/debian\nSuites:\n trixie\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
			main:   "http://mirror.test/debian",
		},
		{name: "nothing"},
		{name: "nonsense", list: "deb\ndeb [\ndeb [x\ndeb http://a.test\n", deb822: "::\n : \nURIs\n\n\n x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			main, security := pickMirrors(append(parseList(tt.list), parseDeb822(tt.deb822)...))
			if main != tt.main || security != tt.security {
				t.Errorf("mirrors %q and %q, want %q and %q", main, security, tt.main, tt.security)
			}
		})
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://m.test/debian trixie main\n")
	f.Add("Types: deb\nURIs: http://m.test/debian\nSuites: trixie\nComponents: main\n\n# x\n y\n")
	f.Fuzz(func(t *testing.T, text string) {
		main, security := pickMirrors(append(parseList(text), parseDeb822(text)...))
		for _, uri := range []string{main, security} {
			if strings.ContainsAny(uri, " \n\"[]") {
				t.Errorf("mirror %q would change the sources.list it is put into", uri)
			}
		}
	})
}

func TestMirrorIsChecked(t *testing.T) {
	for _, bad := range []string{"mirror.test/debian", "http://m.test/debian main\ndeb [trusted=yes] http://evil.test/ x", "http://m test/", "[trusted=yes] http://m.test/", "", "http:"} {
		if checkURI(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, good := range []string{"http://m.test/debian", "https://m.test:8080/debian/", "file:/srv/debian", "tor+http://m.test/debian"} {
		if err := checkURI(good); err != nil {
			t.Error(err)
		}
	}
}

func TestHostSettingsKeepTheWayButNotTheWeakening(t *testing.T) {
	dump := []string{
		`Acquire::http::Proxy "http://proxy.test:3128";`,
		`Acquire::http::Proxy::m.test "DIRECT";`,
		`Acquire::https::CaInfo "/etc/ca.pem";`,
		`Acquire::ForceIPv4 "true";`,
		`Acquire::https::Verify-Peer "false";`,
		`Acquire::https::m.test::Verify-Host "false";`,
		`Acquire::Check-Valid-Until "false";`,
		`Acquire::AllowInsecureRepositories "true";`,
		`Acquire::Languages "none";`,
		`APT::Get::AllowUnauthenticated "true";`,
	}
	if got := keepSettings(strings.Join(dump, "\n")); !slices.Equal(got, dump[:4]) {
		t.Errorf("kept %q", got)
	}
}

func TestPackageFile(t *testing.T) {
	p := Package{Name: "busybox-static", Version: "1:1.37.0-6+b9", Arch: "amd64"}
	if got, want := p.File(), "busybox-static_1%3a1.37.0-6+b9_amd64.deb"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
