package upgrade

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree is a folder's content: a path and its text; "-" is a whiteout, and a path that ends with / a folder.
type tree map[string]string

func (want tree) write(t *testing.T, dir string) {
	t.Helper()
	for path, text := range want {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case strings.HasSuffix(path, "/"):
			err = os.MkdirAll(at, 0o755)
		case text == "-":
			err = unix.Mknod(at, unix.S_IFCHR, 0)
		default:
			err = os.WriteFile(at, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// read is what is at the paths of want, and no more.
func read(t *testing.T, dir string) tree {
	t.Helper()
	got := tree{}
	nodes, err := snapshot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, n := range nodes {
		at := filepath.Join(dir, path)
		switch {
		case isWhiteout(at):
			got[path] = "-"
		case !n.mode.IsDir():
			text, err := os.ReadFile(at)
			if err != nil {
				t.Fatal(err)
			}
			got[path] = string(text)
		}
	}
	return got
}

func wantTree(t *testing.T, what, dir string, want tree) {
	t.Helper()
	got := read(t, dir)
	for path, text := range want {
		if got[path] != text {
			t.Errorf("%s: %s is %q, want %q", what, path, got[path], text)
		}
	}
	for path, text := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %s (%q) is left", what, path, text)
		}
	}
}

// A package was installed by apt and changed by its upgrade, another file is the administrator's, a
// third one is the image's. Each start of each slot finds the /etc that belongs to its packages.
func TestEtcFollowsTheSlot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs marks folders as opaque in trusted.*")
	}
	dir := t.TempDir()
	a, b, data, merged := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "data"), filepath.Join(dir, "merged")
	upper := filepath.Join(data, "etc/upper")
	tree{"etc/image.conf": "image 1", "etc/gone.conf": "image 1", "etc/motd": "image"}.write(t, a)
	tree{"etc/image.conf": "image 1", "etc/gone.conf": "image 1", "etc/motd": "image"}.write(t, b)
	tree{"passwd": "users 1", "motd": "admin", "pkg/conf": "pkg 1", "pkg/old": "old 1", "issue": "-"}.write(t, upper)
	if err := unix.Setxattr(filepath.Join(upper, "pkg"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skip(err)
	}
	start := tree{"image.conf": "image 1", "gone.conf": "image 1", "passwd": "users 1", "motd": "admin", "pkg/conf": "pkg 1", "pkg/old": "old 1"}
	start.write(t, merged)
	before, err := snapshot(merged)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone.conf", "pkg/old"} {
		if err := os.Remove(filepath.Join(merged, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree{"image.conf": "image 2", "passwd": "users 2", "pkg/conf": "pkg 2", "pkg/new/x": "new 2", "added": "2"}.write(t, merged)
	after, err := snapshot(merged)
	if err != nil {
		t.Fatal(err)
	}
	if err := layOut(b, merged, upper, "one", changed(before, after)); err != nil {
		t.Fatal(err)
	}
	wantTree(t, "the new slot's own", filepath.Join(b, "etc"), tree{"image.conf": "image 2", "motd": "image", "added": "2"})
	old := tree{"passwd": "users 1", "motd": "admin", "pkg/conf": "pkg 1", "pkg/old": "old 1", "issue": "-"}
	next := tree{"passwd": "users 2", "motd": "admin", "pkg/conf": "pkg 2", "pkg/old": "-", "pkg/new/x": "new 2", "issue": "-"}
	back := tree{"passwd": "users 1", "motd": "admin", "pkg/conf": "pkg 1", "pkg/old": "old 1", "pkg/new": "-", "issue": "-"}
	for _, step := range []struct {
		name, root string
		want       tree
	}{
		{"before", a, old}, {"first start", b, next}, {"second start", b, next}, {"rolled back", a, back},
		{"again", a, back}, {"forward", b, next},
	} {
		if err := ApplyEtc(step.root, data); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		wantTree(t, step.name, upper, step.want)
	}
	// What the administrator changes in the new slot is his, also after a rollback; what an upgrade in
	// between left half done is finished.
	tree{"passwd": "users 3"}.write(t, upper)
	next["passwd"], back["passwd"] = "users 3", "users 3"
	if err := os.Remove(filepath.Join(data, appliedDir, "done")); err != nil {
		t.Fatal(err)
	}
	tree{"pkg/conf": "pkg 1"}.write(t, upper)
	for _, step := range []struct {
		name, root string
		want       tree
	}{{"half done", b, next}, {"rolled back with a change", a, back}} {
		if err := ApplyEtc(step.root, data); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		wantTree(t, step.name, upper, step.want)
	}
	if _, err := os.Stat(filepath.Join(data, appliedDir)); err == nil {
		t.Error("the slot that was never upgraded keeps the layer of another one")
	}
}

// A copy of an upgraded slot has its changes, and does not take them back.
func TestEtcOfASecondUpgrade(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	upper := filepath.Join(data, "etc/upper")
	tree{"x": "1"}.write(t, upper)
	for n, id := range []string{"one", "two"} {
		root, merged := filepath.Join(dir, id), filepath.Join(dir, "merged-"+id)
		tree{"etc/": "", upgradeIDs: strings.Join([]string{"one\n"}[:n], "")}.write(t, root)
		tree{"x": id}.write(t, merged)
		if err := layOut(root, merged, upper, id, []string{"x"}); err != nil {
			t.Fatal(err)
		}
		if err := ApplyEtc(root, data); err != nil {
			t.Fatal(err)
		}
		wantTree(t, id, upper, tree{"x": id})
	}
	if err := ApplyEtc(filepath.Join(dir, "one"), data); err != nil {
		t.Fatal(err)
	}
	wantTree(t, "back to the first", upper, tree{"x": "one"})
	ids, err := os.ReadFile(filepath.Join(dir, "two", upgradeIDs))
	if got := strings.Fields(string(ids)); err != nil || !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("upgrades %q, %v", got, err)
	}
}
