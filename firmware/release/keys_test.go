package release

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func mustInit(t *testing.T, o Options) (*Keys, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	k, err := Init(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return k, dir
}

func reopen(t *testing.T, dir string) *Keys {
	t.Helper()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// leads reports whether a card with this keyring accepts what k signs now.
func leads(k *Keys, ring []*x509.Certificate) bool {
	card := *k
	card.ring = ring
	return card.verify(time.Now()) == nil
}

func TestInitMakesKeysThatSignAndAreSecret(t *testing.T) {
	k, dir := mustInit(t, Options{})
	if err := k.Usable(time.Now()); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]os.FileMode{
		"": 0o700, caName: 0o600, releaseName: 0o600, keyringName: 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want mode %o", name, info.Mode(), err, want)
		}
	}
	if _, err := Init(dir, Options{}); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Init over keys: %v", err)
	}
	if err := os.Chmod(k.Release(), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "others can read") {
		t.Errorf("a release key that others read: %v", err)
	}
}

func TestReleaseExpires(t *testing.T) {
	k, dir := mustInit(t, Options{Release: 24 * time.Hour, Now: time.Now().Add(-48 * time.Hour)})
	if err := k.Usable(time.Now()); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired certificate: %v", err)
	}
	if err := reopen(t, dir).Rotate(Options{}); err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, dir).Usable(time.Now()); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
}

func TestReleaseEndsWithItsAuthority(t *testing.T) {
	k, _ := mustInit(t, Options{Authority: Year, Release: 5 * Year})
	if got := k.release.cert.NotAfter; got.After(k.ring[0].NotAfter) {
		t.Errorf("the release is valid until %v, its authority until %v", got, k.ring[0].NotAfter)
	}
}

// TestRotationOfTheAuthority: cards with the old keyring, with both and with the new one.
func TestRotationOfTheAuthority(t *testing.T) {
	k, dir := mustInit(t, Options{})
	before := *k
	oldRing := k.ring
	if err := k.RotateAuthority(Options{}); err != nil {
		t.Fatal(err)
	}
	k = reopen(t, dir)
	if len(k.ring) != 2 || len(k.chain) != 1 {
		t.Fatalf("%d certificates in the keyring and %d in the chain, want 2 and 1", len(k.ring), len(k.chain))
	}
	if a, b := k.ring[0].Subject.String(), k.ring[1].Subject.String(); a == b {
		t.Errorf("both authorities are called %s; OpenSSL takes the chain for self-signed", a)
	}
	both := k.ring
	if !leads(k, oldRing) || !leads(k, both) || !leads(&before, both) {
		t.Error("the chain of trust is broken between the two authorities")
	}
	if err := k.DropAuthorities(); err != nil {
		t.Fatal(err)
	}
	k = reopen(t, dir)
	if len(k.ring) != 1 || k.HasChain() {
		t.Fatalf("%d certificates in the keyring, chain %v", len(k.ring), k.HasChain())
	}
	if !leads(k, k.ring) || leads(&before, k.ring) || leads(k, oldRing) {
		t.Error("the dropped authority is still trusted, or the new one is not")
	}
	if err := k.Rotate(Options{}); err != nil {
		t.Errorf("rotate with the new authority: %v", err)
	}
}

func TestOfflineAuthority(t *testing.T) {
	k, dir := mustInit(t, Options{})
	medium := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.Rename(filepath.Join(dir, caName), medium); err != nil {
		t.Fatal(err)
	}
	if s := reopen(t, dir).Status(); s.Authority {
		t.Error("the status says that the authority's key is here")
	}
	if err := k.Rotate(Options{}); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("rotate without the authority: %v", err)
	}
	if err := k.RotateAuthority(Options{CA: medium}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, caName)); err == nil {
		t.Error("the new authority's key is in the folder, want it on the medium")
	}
	_, other := mustInit(t, Options{})
	if err := k.Rotate(Options{CA: filepath.Join(other, caName)}); err == nil {
		t.Error("rotate with a stranger's authority")
	}
}

func TestOpenRejects(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoKeys) {
		t.Errorf("an empty folder: %v", err)
	}
	_, foreign := mustInit(t, Options{})
	for name, spoil := range map[string]func(dir string) error{
		"a stranger's keyring": func(dir string) error { return copyFile(foreign, dir, keyringName) },
		"a truncated key":      func(dir string) error { return os.Truncate(filepath.Join(dir, releaseName), 80) },
		"a key of another certificate": func(dir string) error {
			a, err := os.ReadFile(filepath.Join(dir, releaseName))
			if err != nil {
				return err
			}
			b, err := os.ReadFile(filepath.Join(foreign, releaseName))
			if err != nil {
				return err
			}
			key, _, _ := strings.Cut(string(a), "-----BEGIN CERT")
			_, cert, _ := strings.Cut(string(b), "-----BEGIN CERT")
			return os.WriteFile(filepath.Join(dir, releaseName), []byte(key+"-----BEGIN CERT"+cert), 0o600)
		},
		"a folder as keyring": func(dir string) error {
			name := filepath.Join(dir, keyringName)
			if err := os.Remove(name); err != nil {
				return err
			}
			return os.Mkdir(name, 0o755)
		},
	} {
		_, dir := mustInit(t, Options{})
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil {
			t.Errorf("%s: opened", name)
		} else if !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want the path in it", name, err)
		}
	}
}

func copyFile(from, to, name string) error {
	text, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), text, 0o600)
}
