package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockLen = 64 << 10
	device   = "/vda"
)

// loadModules loads what the firmware's lists name, if this initramfs has the firmware's modules.
func loadModules() error {
	lists, _ := filepath.Glob("/lib/modules/*.list")
	for _, list := range lists {
		if name := filepath.Base(list); name != "late.list" && name != "disk.list" {
			continue
		}
		b, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		for path := range strings.Lines(string(b)) {
			if err := load(strings.TrimSpace(path)); err != nil {
				return err
			}
		}
	}
	return nil
}

func load(path string) error {
	if strings.Contains(path, "/netfilter/") || strings.Contains(path, "/ext4/") {
		return nil
	}
	found, _ := filepath.Glob("/lib/modules/*/" + path)
	if len(found) != 1 {
		return fmt.Errorf("module %s: found %q", path, found)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("module %s: %w", path, err)
	}
	return nil
}

// disk tries the first disk: what it says of itself, a flushed write of every block from the second
// on, over and over, and what was written before. Each step is a line on the console.
func disk() error {
	_ = os.Mkdir("/sys", 0o755)
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	for range 100 {
		if _, err := os.Stat("/sys/block/vda"); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, name := range []string{"size", "ro", "queue/write_cache", "serial", "queue/discard_max_bytes"} {
		v, err := os.ReadFile("/sys/block/vda/" + name)
		fmt.Printf("trial: %s: %s %v\n", name, strings.TrimSpace(string(v)), err)
	}
	var major, minor int
	dev, _ := os.ReadFile("/sys/block/vda/dev")
	if _, err := fmt.Sscanf(string(dev), "%d:%d", &major, &minor); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	if err := syscall.Mknod(device, syscall.S_IFBLK|0o600, major<<8|minor); err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		fmt.Println("trial: for reading only:", err)
		f, err = os.Open(device)
	}
	if err != nil {
		return err
	}
	first := make([]byte, blockLen)
	if _, err := f.ReadAt(first, 0); err != nil {
		return err
	}
	fmt.Printf("trial: first block of %q\n", first[0])
	end, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	for round := byte(1); ; round++ {
		for at := int64(blockLen); at < end; at += blockLen {
			if _, err := f.WriteAt(bytes.Repeat([]byte{round}, blockLen), at); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			fmt.Printf("trial: flushed %d at %d\n", round, at)
		}
	}
}
