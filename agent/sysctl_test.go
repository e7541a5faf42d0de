package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestConnectionTrackingGrowsWithTheMemory keeps a card of 256 MiB from the
// kernel's own 2048 connections.
func TestConnectionTrackingGrowsWithTheMemory(t *testing.T) {
	for _, c := range []struct {
		memory       uint64
		most, bucket string
	}{
		{256 << 20, "65536", "16384"},
		{1 << 30, "262144", "65536"},
		{1 << 20, "4096", "1024"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "net/netfilter")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"nf_conntrack_max": c.most, "nf_conntrack_buckets": c.bucket}
		for name := range files {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		sysctls{root, NewLog(t.Output())}.late(c.memory)
		for name, want := range files {
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
				t.Errorf("%d bytes of memory: %s is %q, %v; want %s", c.memory, name, got, err, want)
			}
		}
	}
}
