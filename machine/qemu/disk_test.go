package qemu

import (
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/machine"
)

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
			"socket,id=disk0,path=/card/disk0", "vhost-user-blk-pci,chardev=disk0",
			"socket,id=disk1,path=/card/disk1", "vhost-user-blk-pci,chardev=disk1",
		}},
	} {
		args := m.arguments(features{}, machine.Spec{Memory: 64 << 20, Disks: c.disks})
		args = slices.DeleteFunc(args, func(a string) bool { return !strings.Contains(a, "disk") })
		if len(args) != len(c.want) {
			t.Fatalf("%d disks: %q", len(c.disks), args)
		}
		for i, a := range args {
			if !strings.HasPrefix(a, c.want[i]) {
				t.Errorf("argument %q, want %q", a, c.want[i])
			}
		}
	}
}
