package hostnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolvConfIsPutBack(t *testing.T) {
	ours := ResolvConf([]netip.Addr{netip.MustParseAddr("10.116.0.1")}, []string{"example.org"})
	if want := "nameserver 10.116.0.1\nsearch example.org\n"; !strings.HasSuffix(string(ours), want) {
		t.Errorf("resolv.conf:\n%s", ours)
	}
	for _, kind := range []string{"file", "link", "absent", "changed"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "resolv.conf")
			switch kind {
			case "file", "changed":
				if err := os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o640); err != nil {
					t.Fatal(err)
				}
			case "link":
				if err := os.Symlink("elsewhere", path); err != nil {
					t.Fatal(err)
				}
			}
			saved, err := saveFile(path, ours)
			if err != nil {
				t.Fatal(err)
			}
			if err := saved.Make(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != string(ours) {
				t.Errorf("in between: %q", got)
			}
			if kind == "changed" {
				if err := os.WriteFile(path, []byte("another program's"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// Twice: a crash may come between putting back and noting it.
			for range 2 {
				if err := saved.Undo(); err != nil {
					t.Fatal(err)
				}
			}
			checkRestored(t, kind, path)
		})
	}
}

func checkRestored(t *testing.T, kind, path string) {
	t.Helper()
	data, _ := os.ReadFile(path)
	target, _ := os.Readlink(path)
	fi, err := os.Lstat(path)
	switch {
	case kind == "file" && (string(data) != "nameserver 192.0.2.1\n" || fi.Mode().Perm() != 0o640),
		kind == "changed" && string(data) != "another program's",
		kind == "link" && target != "elsewhere",
		kind == "absent" && err == nil:
		t.Errorf("afterwards: %q, link %q, %v", data, target, err)
	}
}
