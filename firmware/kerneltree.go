package firmware

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// writeTree unpacks a tar and strips the directory at its top.
func (k *kernelBuild) writeTree(r io.Reader, c *counter) error {
	root, err := os.OpenRoot(k.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(path.Clean(hdr.Name), "/")
		wanted, empty := k.needed(name)
		if name == "" || !wanted {
			continue
		}
		var contents io.Reader = tr
		if empty {
			contents = strings.NewReader("")
		}
		if err := writeTreeEntry(root, name, hdr, contents); err != nil {
			return err
		}
		c.one()
	}
}

func writeTreeEntry(root *os.Root, name string, hdr *tar.Header, r io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		return root.Symlink(hdr.Linkname, name)
	case tar.TypeReg:
	default:
		return fmt.Errorf("%s: unexpected type %q in the sources", name, hdr.Typeflag)
	}
	open := func() (*os.File, error) {
		return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, hdr.FileInfo().Mode().Perm()|0o600)
	}
	f, err := open()
	if errors.Is(err, os.ErrNotExist) {
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err = open()
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// make compares the modification times of files.
	return root.Chtimes(name, hdr.ModTime, hdr.ModTime)
}

// unneeded lists directories that contribute nothing to a card's kernel. They are most of the tree.
// Their Kconfig files are unpacked, because other Kconfig files refer to them. Their Makefiles are
// unpacked empty: make does not descend into what is off.
var unneeded = []string{
	"Documentation/", "LICENSES/", "rust/", "samples/", "sound/", "tools/testing/", "tools/perf/", "tools/power/",
	"lib/test_fortify/",
	"fs/btrfs/", "fs/ceph/", "fs/f2fs/", "fs/gfs2/", "fs/nfs/", "fs/nfsd/", "fs/ntfs3/", "fs/ocfs2/", "fs/smb/",
	"fs/xfs/",
	"net/bluetooth/", "net/mac80211/", "net/wireless/",
	"drivers/net/can/", "drivers/net/dsa/", "drivers/net/ethernet/", "drivers/net/phy/", "drivers/net/wan/",
	"drivers/net/wireless/", "drivers/net/wwan/",
	"drivers/accel/", "drivers/acpi/", "drivers/ata/", "drivers/bluetooth/", "drivers/clk/", "drivers/comedi/",
	"drivers/cpufreq/", "drivers/crypto/", "drivers/dma/", "drivers/edac/", "drivers/firmware/", "drivers/gpio/",
	"drivers/gpu/", "drivers/hid/", "drivers/hwmon/", "drivers/hwtracing/", "drivers/i2c/", "drivers/iio/",
	"drivers/infiniband/", "drivers/input/", "drivers/interconnect/", "drivers/iommu/", "drivers/irqchip/",
	"drivers/leds/", "drivers/media/", "drivers/memory/", "drivers/mfd/", "drivers/misc/",
	"drivers/mmc/", "drivers/mtd/", "drivers/nvme/", "drivers/pci/", "drivers/phy/", "drivers/pinctrl/",
	"drivers/platform/", "drivers/pmdomain/", "drivers/power/", "drivers/regulator/", "drivers/rtc/",
	"drivers/s390/", "drivers/soc/", "drivers/spi/", "drivers/staging/", "drivers/thermal/",
	"drivers/usb/", "drivers/video/",
}

// needed reports whether a file of the sources is unpacked, and whether it is unpacked empty.
func (r *recipe) needed(name string) (wanted, empty bool) {
	base := path.Base(name)
	if strings.HasPrefix(base, "Kconfig") {
		return true, false
	}
	if name == "arch/x86/entry/syscalls/syscall_32.tbl" || name == "arch/um/scripts/Makefile.rules" {
		return true, false // read whatever the architecture: scripts/checksyscalls.sh, fs/hostfs/Makefile
	}
	if arch, ok := strings.CutPrefix(name, "arch/"); ok {
		first, _, _ := strings.Cut(arch, "/")
		return slices.Contains(r.arches, first), false
	}
	for _, dir := range unneeded {
		if strings.HasPrefix(name, dir) && !slices.Contains(r.needs, dir) {
			return base == "Makefile" || base == "Kbuild", true
		}
	}
	return true, false
}

var optionPattern = regexp.MustCompile(`(?m)^\s*(?:menu)?config\s+(\w+)`)

// checkSources refuses options whose sources are not unpacked. With the empty Makefile the kernel
// would lack them without an error.
func checkSources(tree string, r *recipe) error {
	want := options(r.config)
	var lost []string
	for _, dir := range unneeded {
		if slices.Contains(r.needs, dir) {
			continue
		}
		err := filepath.WalkDir(filepath.Join(tree, dir), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasPrefix(d.Name(), "Kconfig") {
				return err
			}
			text, err := os.ReadFile(name)
			for _, m := range optionPattern.FindAllSubmatch(text, -1) {
				if option := "CONFIG_" + string(m[1]); orElse(want[option], "n") != "n" {
					lost = append(lost, option+" is in "+dir)
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("%s asks for what is not unpacked; add its directory to the recipe's needs (unneeded is in firmware/kerneltree.go):\n  %s",
		r.file, strings.Join(slices.Compact(lost), "\n  "))
}
