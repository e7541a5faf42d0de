package uml

import (
	"slices"
	"testing"

	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/internal/trial"
)

// A card's disks come in the order of Spec.Disks, after its network devices.
func TestDiskArguments(t *testing.T) {
	s := machine.Spec{Nets: []machine.Net{{}}, Disks: []machine.Disk{{Socket: "/a"}, {Socket: "/b"}}, Cmdline: "end"}
	want := []string{
		"virtio_uml.device=/net0:1", "virtio_uml.device=/disk0:2", "virtio_uml.device=/disk1:2", "end",
	}
	if args := arguments(s); !slices.Equal(args[len(args)-4:], want) {
		t.Errorf("%q, want %q at the end", args, want)
	}
}

func TestDisk(t *testing.T)         { trial.Disk(t, New(Config{}), spec(t, "disk"), bootLimit) }
func TestReadOnlyDisk(t *testing.T) { trial.ReadOnlyDisk(t, New(Config{}), spec(t, "disk"), bootLimit) }
func TestPowerCut(t *testing.T)     { trial.PowerCut(t, New(Config{}), spec(t, "disk"), bootLimit) }
