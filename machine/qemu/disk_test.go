package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/internal/trial"
)

// diskSpec is a card whose trial has the modules of the firmware beside its kernel: virtio_blk is one.
func diskSpec(t testing.TB) machine.Spec {
	s := spec(t, "disk")
	modules, err := os.ReadFile(filepath.Join(filepath.Dir(s.Kernel), "initramfs"))
	if err != nil {
		t.Skip("the kernel is not that of a firmware image: " + err.Error())
	}
	init, err := os.ReadFile(s.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel unpacks both. The later init replaces that of the firmware.
	if err := os.WriteFile(s.Initrd, append(modules, init...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Memory = 256 << 20
	return s
}

func TestDisk(t *testing.T) { trial.Disk(t, New(Config{Kind: machine.TCG}), diskSpec(t), bootLimit) }

// A card's disks come in the order of Spec.Disks, each with the socket of its own in the cell. A
// card without disks has no disk's arguments.
func TestDiskArguments(t *testing.T) {
	m := New(Config{Kind: machine.TCG})
	for _, c := range []struct {
		disks []machine.Disk
		want  []string
	}{
		{nil, nil},
		{[]machine.Disk{{Name: "flash", Socket: "/a"}, {Name: "data", Socket: "/b"}}, []string{
			"socket,id=disk0,path=/card/disk0", "chardev=disk0",
			"socket,id=disk1,path=/card/disk1", "chardev=disk1",
		}},
	} {
		args := m.arguments(features{}, machine.Spec{Memory: 64 << 20, Disks: c.disks})
		args = slices.DeleteFunc(args, func(a string) bool { return !strings.Contains(a, "disk") })
		if len(args) != len(c.want) {
			t.Fatalf("%d disks: %q", len(c.disks), args)
		}
		for i, a := range args {
			if !strings.Contains(a, c.want[i]) {
				t.Errorf("argument %q, want %q", a, c.want[i])
			}
		}
	}
}
