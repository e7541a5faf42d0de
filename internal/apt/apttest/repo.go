// Package apttest makes small signed Debian archives on disk, so that tests
// can fetch packages with the real apt and no network.
package apttest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Deb is a package to be made.
type Deb struct {
	Name, Version, Arch string
	Depends             string
	Files               map[string][]byte // by absolute name
}

// Repo is an archive with one component, main, in any number of suites.
type Repo struct {
	Dir     string
	Keyring string // of the key that signs it
	URI     string // for sources.list
	home    string
	files   map[string]string // path of a .deb → its stanza in Packages
}

// New makes an empty archive. It skips the test where apt or gpg are missing:
// both are there on any Debian that builds firmware.
func New(t testing.TB) *Repo {
	t.Helper()
	for _, tool := range []string{"apt-get", "dpkg-deb", "gpg"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s", tool)
		}
	}
	// The socket of gpg's agent must have a short path.
	home, err := os.MkdirTemp("", "toe-gpg-")
	if err != nil {
		t.Fatal(err)
	}
	r := &Repo{Dir: t.TempDir(), home: home, files: map[string]string{}}
	r.URI = "file:" + r.Dir
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	r.Keyring = filepath.Join(r.Dir, "key.gpg")
	r.gpg(t, nil, "--quick-gen-key", "test", "ed25519", "sign", "never")
	r.write(t, "key.gpg", r.gpg(t, nil, "--export"))
	return r
}

func (r *Repo) gpg(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	args = append([]string{"--homedir", r.home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"}, args...)
	cmd := exec.Command("gpg", args...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gpg %s: %v: %s", strings.Join(args, " "), err, complaint.String())
	}
	return out
}

func (r *Repo) write(t testing.TB, name string, data []byte) {
	t.Helper()
	path := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Add builds a package into the archive; Publish makes it known. It returns
// the path of the .deb.
func (r *Repo) Add(t testing.TB, d Deb) string {
	t.Helper()
	tree := t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Test <test@invalid>\nDescription: test\n", d.Name, d.Version, d.Arch)
	if d.Depends != "" {
		control += "Depends: " + d.Depends + "\n"
	}
	files := map[string][]byte{"/DEBIAN/control": []byte(control)}
	for name, data := range d.Files {
		files[name] = data
	}
	for name, data := range files {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("pool/%s_%s_%s.deb", d.Name, strings.ReplaceAll(d.Version, ":", ""), d.Arch)
	path := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, path).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb -b: %v: %s", err, out)
	}
	deb, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.files[name] = control + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %x\n", name, len(deb), sha256.Sum256(deb))
	return path
}

// Publish writes and signs the indexes of a suite. validUntil, when not zero,
// is when they end to be valid.
func (r *Repo) Publish(t testing.TB, suite, arch string, validUntil time.Time) {
	t.Helper()
	var packages strings.Builder
	for _, stanza := range r.files {
		packages.WriteString(stanza + "\n")
	}
	index := []byte(packages.String())
	release := fmt.Sprintf("Origin: test\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: %s\nComponents: main\n",
		suite, suite, date(time.Now().Add(-48*time.Hour)), arch)
	if !validUntil.IsZero() {
		release += "Valid-Until: " + date(validUntil) + "\n"
	}
	release += fmt.Sprintf("SHA256:\n %x %d main/binary-%s/Packages\n", sha256.Sum256(index), len(index), arch)
	dist := "dists/" + suite + "/"
	r.write(t, dist+"main/binary-"+arch+"/Packages", index)
	r.write(t, dist+"InRelease", r.gpg(t, []byte(release), "--clearsign"))
	r.write(t, dist+"Release", []byte(release))
}

func date(at time.Time) string { return at.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC") }
