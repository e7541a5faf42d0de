package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/firmware/release"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// bundled is what `toe firmware bundle` prints with --json.
type bundled struct {
	Path       string `json:"path"`
	Compatible string `json:"compatible"`
	Version    string `json:"version"`
	Image      string `json:"image"` // version of the image in it
	Size       int64  `json:"size"`  // bytes
}

func firmwareBundleCmd() *cobra.Command {
	var edition, target, version, output, keys, image string
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Make a signed bundle of an image, for running cards to install",
		Long: `Bundle takes the image that the cache has for an edition and a machine, and makes
a RAUC bundle of it, signed with the release key (toe firmware keys). The version
is what cards compare: they reject one that is lower than their own. By default it
is the time of the bundle.`,
		Example: "  toe firmware bundle --machine uml -o card.raucb",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "" {
				return cli.Usagef("which file? -o FILE.raucb")
			}
			if version == "" {
				version = release.VersionAt(time.Now())
			} else if err := release.CheckVersion(version); err != nil {
				return cli.Usagef("--%v", err)
			}
			if edition != string(firmware.Debian) {
				return cli.Usagef("--edition %q: want %s, the edition with slots to install to", edition, firmware.Debian)
			}
			dir, err := keysDir(keys)
			if err != nil {
				return err
			}
			k, err := release.Open(dir)
			if err != nil {
				return err
			}
			img, err := imageFor(image, edition, target)
			if err != nil {
				return err
			}
			var p *progress.Progress
			if !quiet {
				p = progress.New(cmd.ErrOrStderr())
			}
			b, err := makeBundle(cmd.Context(), k, img, version, output, p)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), b)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: version %s for %s, %s\n", b.Path, b.Version, b.Compatible, progress.Size(b.Size))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&edition, "edition", string(firmware.Debian), "edition of the image")
	f.StringVar(&target, "machine", string(firmware.QEMU), "machine of the image: qemu or uml")
	f.StringVar(&image, "image", "", "image file (default the one in the cache)")
	f.StringVar(&version, "version", "", "version of the bundle (default year.monthday.hourminute, UTC)")
	f.StringVarP(&output, "output", "o", "", "file to write")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	addKeysDir(cmd, &keys)
	return cmd
}

func imageFor(path, edition, target string) (*firmware.Image, error) {
	cache, err := firmware.CacheDir()
	if err != nil {
		return nil, err
	}
	if path != "" {
		return firmware.Open(path, cache)
	}
	kind := machine.Kind(target)
	if target == string(firmware.QEMU) {
		kind = machine.TCG // and KVM: they share an image
	}
	if _, err := firmware.TargetOf(kind); err != nil {
		return nil, cli.Usagef("--machine %q: want qemu or uml", target)
	}
	return firmware.Find(cache, firmware.Edition(edition), kind, arch.Host().Name)
}

// makeBundle makes the bundle of an image: the image file of a boot slot and a root file system.
func makeBundle(
	ctx context.Context, k *release.Keys, img *firmware.Image, version, path string, p *progress.Progress,
) (b *bundled, err error) {
	stage := p.Stage("bundle "+version, 0)
	defer func() { stage.Fail(err) }()
	files, err := img.Files(ctx)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	if files.Root == "" {
		return nil, fmt.Errorf("image %s has no root file system; want edition %s", img.Path, firmware.Debian)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	err = k.Make(ctx, release.Bundle{
		Compatible: img.Compatible(), Version: version, Description: "image " + img.Version,
		Images: []release.Image{
			{Slot: release.BootSlot, Name: release.BootImage, Write: func(f *os.File) error {
				_, _, err := img.WriteBoot(f)
				return err
			}},
			{Slot: release.RootSlot, Name: release.RootImage, Write: func(f *os.File) error {
				size, err := firmware.WriteRoot(ctx, files.Root, f, maxRoot, nil)
				return errors.Join(err, f.Truncate(size)) // it may end with zeros, which are not written
			}},
		},
	}, path, stage.Note)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	stage.Done(progress.Size(info.Size()))
	return &bundled{path, img.Compatible(), version, img.Version, info.Size()}, nil
}

// maxRoot bounds a root file system, in bytes. A card's slot has less.
const maxRoot = 64 << 30

// releaseKeyring returns the certificates that images of this host trust: those in the named file,
// else those of the default folder of keys, else none.
func releaseKeyring(file string) ([]byte, error) {
	if file != "" {
		return release.ReadKeyring(file)
	}
	dir, err := keysDir("")
	if err != nil {
		return nil, err
	}
	ring, err := release.ReadKeyring(release.KeyringIn(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return ring, err
}
