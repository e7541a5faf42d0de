package release

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVersions(t *testing.T) {
	at := time.Date(2026, 1, 5, 7, 3, 0, 0, time.UTC)
	if got := VersionAt(at); got != "2026.105.703" || CheckVersion(got) != nil {
		t.Errorf("version of %v: %s, %v", at, got, CheckVersion(got))
	}
	for _, v := range []string{"1", "1.2", "1.2.3", "2026.1128.0", "1.4.2-rc1"} {
		if err := CheckVersion(v); err != nil {
			t.Error(err)
		}
	}
	for _, v := range []string{"", "v1", "1.02", "1.2.3.4", "7.3.4-", "1\nhooks=x", "1.2.3+4", "99999999999"} {
		if CheckVersion(v) == nil {
			t.Errorf("version %q is accepted", v)
		}
	}
}

func TestBundleRejects(t *testing.T) {
	k, _ := mustInit(t, Options{})
	for name, b := range map[string]Bundle{
		"a line break in the compatible":  {Compatible: "a\n[hooks]", Version: "1"},
		"no compatible":                   {Version: "1"},
		"a line break in the description": {Compatible: "a", Version: "1", Description: "x\ny=z"},
	} {
		if err := k.Make(t.Context(), b, filepath.Join(t.TempDir(), "b"), func(string) {}); err == nil {
			t.Errorf("%s: made", name)
		}
	}
}

func needRAUC(t *testing.T) {
	t.Helper()
	if err := needTools(); err != nil {
		t.Skip(err)
	}
}

func write(text string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.WriteString(text)
		return err
	}
}

// noise is more than the smallest bundle of RAUC, compressed.
func noise(f *os.File) error {
	_, err := io.CopyN(f, rand.Reader, 64<<10)
	return err
}

func testBundle() Bundle {
	return Bundle{
		Compatible: "toe-amd64-uml-debian", Version: "2026.1128.1", Description: "of a test",
		Images: []Image{
			{BootSlot, BootImage, noise},
			{RootSlot, RootImage, write(strings.Repeat("root", 9000))},
		},
	}
}

// info is what RAUC says of a bundle to a card with a keyring.
func info(t *testing.T, keyring, bundle string) (string, error) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "system.conf")
	text := "[system]\ncompatible=x\nbootloader=noop\n[keyring]\npath=" + keyring + "\ncheck-purpose=codesign\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("rauc", "--conf="+conf, "info", bundle).CombinedOutput()
	return string(out), err
}

// TestMake checks which keyrings accept a bundle from before and after a rotation of the authority.
func TestMake(t *testing.T) {
	needRAUC(t)
	k, _ := mustInit(t, Options{})
	dir := t.TempDir()
	ring := func(name string) string {
		text, err := os.ReadFile(k.Keyring())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	bundle := func(name string) string {
		path := filepath.Join(dir, name)
		if err := k.Make(t.Context(), testBundle(), path, func(string) {}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, before := ring("first"), bundle("before.raucb")
	if err := k.RotateAuthority(Options{}); err != nil {
		t.Fatal(err)
	}
	both, after := ring("both"), bundle("after.raucb")
	if err := k.DropAuthorities(); err != nil {
		t.Fatal(err)
	}
	second, last := ring("second"), bundle("last.raucb")
	for _, c := range []struct {
		ring, bundle string
		accepted     bool
	}{
		{first, before, true}, {first, after, true}, {first, last, false},
		{both, before, true}, {both, after, true}, {both, last, true},
		{second, before, false}, {second, after, true}, {second, last, true},
	} {
		out, err := info(t, c.ring, c.bundle)
		if (err == nil) != c.accepted {
			t.Errorf("keyring %s, bundle %s: %v, want accepted %v\n%s", c.ring, c.bundle, err, c.accepted, out)
		}
	}
	out, _ := info(t, second, last)
	for _, want := range []string{"'toe-amd64-uml-debian'", "'2026.1128.1'", "verity", "[rootfs]", "[boot]"} {
		if !strings.Contains(strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(out), want) {
			t.Errorf("rauc info has no %s:\n%s", want, out)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, ".bundle-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("Make left %v", left)
	}
}

func TestMakeWithAnExpiredCertificate(t *testing.T) {
	needRAUC(t)
	k, _ := mustInit(t, Options{Release: time.Hour, Now: time.Now().Add(-2 * time.Hour)})
	path := filepath.Join(t.TempDir(), "b")
	if err := k.Make(t.Context(), testBundle(), path, func(string) {}); !errors.Is(err, ErrExpired) {
		t.Errorf("an expired certificate: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("there is a bundle")
	}
}

func TestMakeFailsWithoutATrace(t *testing.T) {
	needRAUC(t)
	k, _ := mustInit(t, Options{})
	dir := t.TempDir()
	b := testBundle()
	b.Images[1].Write = func(*os.File) error { return errors.New("no room") }
	if err := k.Make(t.Context(), b, filepath.Join(dir, "b"), func(string) {}); err == nil {
		t.Error("made")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
