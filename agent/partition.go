package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// partLabel begins the name of a partition in the kernel's arguments, as mount(8) and the kernel
// spell it.
const partLabel = "PARTLABEL="

// awaitDisk waits until a disk is there and returns its device. It is named by its path, or by the
// name of its partition: numbers of partitions are not relied on.
func awaitDisk(name string) (device string, err error) {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if device, err = findDisk("/sys/class/block", name); err != nil {
			return "", err
		}
		if device != "" {
			if _, err := os.Stat(device); err == nil {
				return device, nil
			}
		}
		if time.Since(began) > diskLimit {
			return "", fmt.Errorf("%s: the disk is missing after %v", name, diskLimit)
		}
	}
}

// findDisk returns the device of a disk, or "" while it is missing. The folder sys is that of the
// kernel's block devices.
func findDisk(sys, name string) (string, error) {
	label, ok := strings.CutPrefix(name, partLabel)
	if !ok {
		if !strings.HasPrefix(name, "/dev/") {
			return "", fmt.Errorf("%q: want a device such as /dev/vda, or %sNAME", name, partLabel)
		}
		return name, nil
	}
	found, err := filepath.Glob(filepath.Join(sys, "*", "uevent"))
	if err != nil || label == "" {
		return "", fmt.Errorf("%q: want the name of a partition", name)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var device, part string
		for line := range bytes.Lines(text) {
			key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
			switch key {
			case "DEVNAME":
				device = value
			case "PARTNAME":
				part = value
			}
		}
		if part == label && device != "" {
			return filepath.Join("/dev", device), nil
		}
	}
	return "", nil
}
