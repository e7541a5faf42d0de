package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Partitions are found by name, whatever their order is.
func TestFindDisk(t *testing.T) {
	sys := t.TempDir()
	for name, uevent := range map[string]string{
		"vda":  "MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\n",
		"vda1": "DEVNAME=vda1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=data\n",
		"vda7": "DEVNAME=vda7\nDEVTYPE=partition\nPARTN=7\nPARTNAME=rootfs-a\n",
		"vdb1": "DEVNAME=vdb1\nDEVTYPE=partition\nPARTN=1\n",
	} {
		if err := os.Mkdir(filepath.Join(sys, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, name, "uevent"), []byte(uevent), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, want, err string }{
		{"/dev/vda", "/dev/vda", ""}, {"PARTLABEL=rootfs-a", "/dev/vda7", ""}, {"PARTLABEL=data", "/dev/vda1", ""},
		{"PARTLABEL=rootfs-b", "", ""}, {"PARTLABEL=", "", "want the name of a partition"},
		{"vda", "", "want a device such as /dev/vda"}, {"UUID=1", "", "want a device such as /dev/vda"},
	} {
		got, err := findDisk(sys, c.name)
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.name, got, err, c.want, c.err)
		}
	}
}
