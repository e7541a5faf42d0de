package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// repository is a Debian archive that the test makes, signs and serves in the world. It has the suite
// trixie, and trixie-security with the names of Debian's own: a card's unattended-upgrades takes updates of
// that as it is configured by Debian.
type repository struct {
	dir string // served
	gpg string // GNUPGHOME
	url string
}

const (
	stable   = "trixie"
	security = "trixie-security"
	// repositoryPort is that of the world on which it is served.
	repositoryPort = "8080"
)

func newRepository(t *testing.T, w world) *repository {
	t.Helper()
	r := &repository{dir: t.TempDir(), url: "http://" + worldAddr + ":" + repositoryPort}
	var err error
	if r.gpg, err = os.MkdirTemp("/tmp", "te-gpg-"); err != nil { // short: gpg-agent has sockets in it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.run("gpgconf", "--kill", "all")
		os.RemoveAll(r.gpg)
	})
	err = r.run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "toe test <test@example.test>", "ed25519", "sign", "never")
	if err == nil {
		err = r.run("gpg", "--batch", "--output", filepath.Join(r.dir, "key.gpg"), "--export")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.FileServer(http.Dir(r.dir)), ReadHeaderTimeout: 10 * time.Second}
	l := w.listen(t, net.JoinHostPort("", repositoryPort))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	r.publish(t, stable)
	r.publish(t, security)
	return r
}

func (r *repository) run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+r.gpg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

// add makes a package of files, by path; a file of DEBIAN/ is dpkg's. It takes the place of an older version.
func (r *repository) add(t *testing.T, suite, name, version string, files map[string]string) {
	t.Helper()
	root := t.TempDir()
	files["DEBIAN/control"] = fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: test <test@example.test>\n"+
		"Description: a package of a test\n", name, version)
	for path, text := range files {
		at, mode := filepath.Join(root, path), os.FileMode(0o644)
		if filepath.Dir(path) == "DEBIAN" && path != "DEBIAN/control" && path != "DEBIAN/conffiles" {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.run("dpkg-deb", "--root-owner-group", "-Znone", "--build", root, filepath.Join(r.pool(t, suite), name+".deb")); err != nil {
		t.Fatal(err)
	}
	r.publish(t, suite)
}

func (r *repository) pool(t *testing.T, suite string) string {
	t.Helper()
	dir := filepath.Join(r.dir, "pool", suite)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// publish writes the lists of a suite, and signs them.
func (r *repository) publish(t *testing.T, suite string) {
	t.Helper()
	debs, err := filepath.Glob(filepath.Join(r.pool(t, suite), "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	for _, deb := range debs {
		control, err := exec.Command("dpkg-deb", "--field", deb).Output()
		if err != nil {
			t.Fatalf("dpkg-deb --field %s: %v", deb, err)
		}
		data, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		path, _ := filepath.Rel(r.dir, deb)
		fmt.Fprintf(&list, "%s\nFilename: %s\nSize: %d\nSHA256: %x\n\n", strings.TrimSpace(string(control)), path, len(data), sha256.Sum256(data))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(list.Bytes())
	_ = z.Close()
	label := "Debian"
	if suite == security {
		label = "Debian-Security"
	}
	const release = "Origin: Debian\nLabel: %s\nSuite: %s\nVersion: 13\nCodename: %[2]s\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n"
	text := fmt.Sprintf(release, label, suite, time.Now().UTC().Add(-time.Minute).Format(time.RFC1123))
	text = strings.Replace(text, "GMT", "UTC", 1)
	base := filepath.Join(r.dir, "dists", suite)
	for name, data := range map[string][]byte{"Packages": list.Bytes(), "Packages.gz": packed.Bytes()} {
		name = "main/binary-amd64/" + name
		if err := os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %x %d %s\n", sha256.Sum256(data), len(data), name)
	}
	if err := os.WriteFile(filepath.Join(base, "Release"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.run("gpg", "--batch", "--yes", "--clearsign", "--output", filepath.Join(base, "InRelease"), filepath.Join(base, "Release")); err != nil {
		t.Fatal(err)
	}
}

// use is the shell script by which a card uses the repository, and no other.
func (r *repository) use() string {
	return fmt.Sprintf(`set -e
		rm -f /etc/apt/sources.list.d/*
		curl -fsS -o /etc/apt/keyrings/test.gpg --create-dirs %[1]s/key.gpg
		for suite in %[2]s %[3]s; do
			echo "deb [signed-by=/etc/apt/keyrings/test.gpg] %[1]s $suite main"
		done > /etc/apt/sources.list.d/test.list
		apt-get -q update`, r.url, stable, security)
}
