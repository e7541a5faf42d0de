package uml

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// kernel is a built User-Mode Linux.
func kernel(t testing.TB) string {
	t.Helper()
	k := os.Getenv("TOE_UML_KERNEL")
	if k == "" {
		t.Skip("no User-Mode Linux kernel: set TOE_UML_KERNEL to the path of one")
	}
	return k
}

func TestProbe(t *testing.T) {
	m := New(Config{Kernel: kernel(t)})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	how, err := m.Probe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s (took %v)", how, time.Since(begin))
}

func TestProbeFails(t *testing.T) {
	for _, c := range []struct{ name, kernel, want string }{
		{"none built", "", "no kernel is built"},
		{"missing", "/nonexistent/linux", "/nonexistent/linux"},
		{"not a kernel", "/bin/true", "/bin/true"},
	} {
		_, err := New(Config{Kernel: c.kernel}).Probe(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that names %q", c.name, err, c.want)
		}
	}
}
