package hostid

import (
	"os"
	"path/filepath"
	"testing"
)

func withID(t *testing.T, id string) {
	t.Helper()
	old := machineID
	t.Cleanup(func() { machineID = old })
	machineID = filepath.Join(t.TempDir(), "machine-id")
	if id == "" {
		return
	}
	if err := os.WriteFile(machineID, []byte(id+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestHash(t *testing.T) {
	withID(t, "1111")
	a := Hash("mac", "card0")
	if Hash("mac", "card0") != a {
		t.Error("two calls differ")
	}
	if Hash("mac", "card1") == a || Hash("maccard0") == a || Hash("mac", "card", "0") == a {
		t.Error("other words have the same hash")
	}
	withID(t, "2222")
	if Hash("mac", "card0") == a {
		t.Error("another host has the same hash")
	}
}

func TestWithoutMachineID(t *testing.T) {
	withID(t, "")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(ID()); got != name {
		t.Errorf("ID() = %q, want the host's name %q", got, name)
	}
}
