package textdiff

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnified(t *testing.T) {
	const want = "--- a\n+++ b\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n+2.5\n three\n"
	if got := Unified("a", "b", "one\ntwo\nthree\n", "one\n2\n2.5\nthree\n"); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := Unified("a", "b", "x\n", "x\n"); got != "" {
		t.Errorf("the same: %q", got)
	}
	if got := Unified("a", "b", "", "x\n"); got != "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n" {
		t.Errorf("a new file: %q", got)
	}
}

// TestPatch: patch(1) makes the second text of the first and the difference.
func TestPatch(t *testing.T) {
	patch, err := exec.LookPath("patch")
	if err != nil {
		t.Skip(err)
	}
	from := "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn\no\np\nq\nr\n"
	for _, to := range []string{
		strings.Replace(from, "b\n", "", 1), strings.Replace(from, "r\n", "r\ns\n", 1), "0\n" + from,
		strings.ReplaceAll(strings.ReplaceAll(from, "c\n", "C\nC\n"), "p\n", ""), "z\n",
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(from), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(patch, "-s", file)
		cmd.Stdin = strings.NewReader(Unified("f", "f", from, to))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got, _ := os.ReadFile(file); string(got) != to {
			t.Errorf("patched: %q, want %q", got, to)
		}
	}
}
