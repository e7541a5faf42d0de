package apt_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/apt/apttest"
)

func openRoot(t *testing.T, r *apttest.Repo) *apt.Root {
	t.Helper()
	root, err := apt.Open(context.Background(), apt.Options{
		Dir: t.TempDir(), Arch: "amd64", Suites: []string{"trixie"}, Mirror: r.URI, Keyring: r.Keyring,
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func repo(t *testing.T) (r *apttest.Repo, deb string) {
	t.Helper()
	r = apttest.New(t)
	deb = r.Add(t, apttest.Deb{Name: "toe-test", Version: "1:2.0-1", Arch: "amd64", Depends: "a (= 1), b",
		Files: map[string][]byte{"/usr/bin/x": []byte("x")}})
	r.Publish(t, "trixie", "amd64", time.Time{})
	return r, deb
}

func TestFetch(t *testing.T) {
	ctx := context.Background()
	r, deb := repo(t)
	root := openRoot(t, r)
	if err := root.Update(ctx); err != nil {
		t.Fatal(err)
	}
	names, err := root.Names(ctx, "toe-")
	if err != nil || len(names) != 1 {
		t.Errorf("names %v, %v", names, err)
	}
	p, err := root.Candidate(ctx, "toe-test")
	if err != nil || p.Version != "1:2.0-1" || p.Depends != "a (= 1), b" {
		t.Fatalf("candidate %+v, %v", p, err)
	}
	if _, err := root.Candidate(ctx, "toe-missing"); !errors.Is(err, apt.ErrNoPackage) {
		t.Errorf("missing package: %v, want ErrNoPackage", err)
	}
	for range 2 { // the second time it is there already
		got := int64(0)
		if err := root.Fetch(ctx, p, func(n int64) { got = n }); err != nil {
			t.Fatal(err)
		}
		_ = got
	}
	want, _ := os.ReadFile(deb)
	if got, err := os.ReadFile(root.Path(p)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("fetched %d bytes of %d: %v", len(got), len(want), err)
	}
	if err := os.Truncate(root.Path(p), 10); err != nil {
		t.Fatal(err)
	}
	if root.Check(p) == nil {
		t.Error("a damaged package passes the check")
	}
	if err := root.Fetch(ctx, p, func(int64) {}); err != nil {
		t.Errorf("a damaged package is not fetched again: %v", err)
	}
}

func TestTamperedPackageIsRefused(t *testing.T) {
	ctx := context.Background()
	r, deb := repo(t)
	root := openRoot(t, r)
	if err := root.Update(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := root.Candidate(ctx, "toe-test")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(deb, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := root.Fetch(ctx, p, func(int64) {}); err == nil {
		t.Error("a package was taken that is not what the index says")
	}
}

func TestUnverifiedIndexesAreRefused(t *testing.T) {
	tests := map[string]func(t *testing.T, r *apttest.Repo){
		"packages changed": func(t *testing.T, r *apttest.Repo) { edit(t, r, "main/binary-amd64/Packages") },
		"signature broken": func(t *testing.T, r *apttest.Repo) { edit(t, r, "InRelease") },
		"no signature": func(t *testing.T, r *apttest.Repo) {
			if err := os.Remove(filepath.Join(r.Dir, "dists/trixie/InRelease")); err != nil {
				t.Fatal(err)
			}
		},
		"another key": func(t *testing.T, r *apttest.Repo) { r.Keyring = apttest.New(t).Keyring },
		"expired":     func(t *testing.T, r *apttest.Repo) { r.Publish(t, "trixie", "amd64", time.Now().Add(-time.Hour)) },
		"no mirror":   func(_ *testing.T, r *apttest.Repo) { r.URI += "/nowhere" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := repo(t)
			spoil(t, r)
			root := openRoot(t, r)
			if err := root.Update(context.Background()); err == nil {
				t.Error("the indexes were accepted")
			}
			if _, err := root.Candidate(context.Background(), "toe-test"); !errors.Is(err, apt.ErrNoPackage) {
				t.Errorf("a package of unverified indexes is offered: %v", err)
			}
		})
	}
}

func edit(t *testing.T, r *apttest.Repo, name string) {
	t.Helper()
	path := filepath.Join(r.Dir, "dists/trixie", name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("test"), []byte("tost"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateEndsWithItsContext(t *testing.T) {
	r, _ := repo(t)
	root := openRoot(t, r)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := root.Update(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
