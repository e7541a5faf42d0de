package passt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == Verb {
		if err := Main(os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = processAttr()
	if err := cmd.Run(); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
}

// The passt of Debian 12 sends an answer again and again, and is found out.
func TestProbeFindsTheFault(t *testing.T) {
	needNamespaces(t)
	p, err := installed()
	if err != nil {
		t.Skip(err)
	}
	out, _ := exec.Command("dpkg-query", "--show", "passt").CombinedOutput()
	if !bytes.Contains(out, []byte("20230309")) {
		t.Skipf("only Debian 12's passt is known to be faulty; here is %q", out)
	}
	if err := Probe(t.Context(), t.TempDir(), p); !errors.Is(err, ErrFaulty) {
		t.Errorf("%v, want %v", err, ErrFaulty)
	}
}

// What a newer Debian has passes, with its own C library.
func TestProbePassesAGoodOne(t *testing.T) {
	needNamespaces(t)
	p, err := Fetched(os.Getenv("TOE_CACHE_DIR"))
	if err != nil {
		t.Skipf("%v; `toe firmware build` brings it", err)
	}
	if err := Probe(t.Context(), t.TempDir(), p); err != nil {
		t.Error(err)
	}
}

// A program that does nothing is no faulty one: it could not be tested. That
// verdict is not kept.
func TestProbeOfAProgramThatFails(t *testing.T) {
	needNamespaces(t)
	cache := t.TempDir()
	program := filepath.Join(t.TempDir(), "passt")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho broken >&2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Probe(t.Context(), cache, Program{Argv: []string{program}})
	if err == nil || errors.Is(err, ErrFaulty) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("%v, want what it said", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*")); len(left) != 0 {
		t.Errorf("kept in the cache: %v", left)
	}
}

// A verdict holds for the file that was tested, and for no other one.
func TestVerdictIsKeptByFile(t *testing.T) {
	cache, dir := t.TempDir(), t.TempDir()
	program := filepath.Join(dir, "passt")
	write := func(text string) {
		if err := os.WriteFile(program+".new", []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	write("#!/bin/sh\n")
	p := Program{Argv: []string{program}}
	before, err := p.key()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := p.key(); again != before {
		t.Errorf("key %q, then %q", before, again)
	}
	write("#!/bin/sh\n") // the same content in another file
	if after, _ := p.key(); after == before {
		t.Error("another file has the same key")
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := Probe(t.Context(), cache, p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want %v", err, os.ErrNotExist)
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		got    string
		faulty bool
	}{{"answer", false}, {"answera", true}, {"answeranswer", true}, {"answ", true}, {"", true}, {"ansWer", true}} {
		if err := compare(strings.NewReader(c.got), []byte("answer")); errors.Is(err, ErrFaulty) != c.faulty {
			t.Errorf("%q: %v", c.got, err)
		}
	}
}

// A host without passt and without apt is told what is missing, and gets none.
func TestChooseWithoutAny(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Choose(context.Background(), t.TempDir(), nil); !errors.Is(err, ErrMissing) {
		t.Errorf("%v, want %v", err, ErrMissing)
	}
}

// If the host's passt is faulty and no other is available, Choose returns none. The error names the
// fault and the fix.
func TestChooseRefusesAFaultyOne(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	program := filepath.Join(dir, "passt")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir) // no apt either
	p, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	if err := keep(cache, p, verdict{Fault: "it delivers more than was sent", Faulty: true}); err != nil {
		t.Fatal(err)
	}
	_, err = Choose(context.Background(), cache, nil)
	if !errors.Is(err, ErrFaulty) || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "fix:") {
		t.Errorf("%v, want %v and a fix", err, ErrFaulty)
	}
}
