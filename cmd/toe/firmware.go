package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/service"
)

func firmwareCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firmware",
		Short: "Build what a card boots, and show what is built",
	}
	cmd.AddCommand(firmwareBuildCmd(), firmwareStatusCmd(), firmwareRollbackCmd(), firmwareHistoryCmd(),
		firmwareSBOMCmd(), firmwareAgentsCmd(), firmwareKeysCmd(), firmwareBundleCmd(),
		firmwareInstallCmd(), firmwareUpdateCmd(), firmwareUpgradeCmd())
	return cmd
}

func firmwareBuildCmd() *cobra.Command {
	var o firmware.Options
	var edition, target, output, keyring string
	var quiet, asJSON, offline bool
	var services []string
	var cardFile string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build firmware from Debian packages and the agent, into the cache",
		Long: `Build fetches Debian packages through a private apt root, from the mirror that
this host uses, verifies them, and makes one image of kernel, initramfs and
manifest. For machine uml it compiles User-Mode Linux from Debian's newest
linux-source, which takes minutes the first time. Where the host's passt moves
wrong data, as Debian 12's does, Build fetches another one, so that a card's
first start needs no network.

Edition debian is a whole Debian 13 with systemd, OpenSSH and apt, made by
mmdebstrap, which needs no root. Its packages are kept in the cache and made
again when the mirror has newer ones.

The agent of another architecture than the host's is toe-agent-ARCH beside toe.
In a source tree Build compiles it.`,
		Example: "  toe firmware build\n  toe firmware build --machine uml\n  toe firmware build --arch arm64\n" +
			"  toe firmware build --edition debian --machine uml --package vim",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Edition, o.Target = firmware.Edition(edition), firmware.Target(target)
			if target == "kvm" || target == "tcg" {
				o.Target = firmware.QEMU
			}
			if o.Target != firmware.QEMU && o.Target != firmware.UML {
				return cli.Usagef("--machine %q: want qemu or uml", target)
			}
			if _, err := arch.Find(o.Arch); err != nil {
				return cli.Usagef("--arch: %w", err)
			}
			o.Version = cli.Version(buildVersion)
			if !slices.Contains(firmware.Editions, o.Edition) {
				return cli.Usagef("--edition %q: want one of %q", edition, firmware.Editions)
			}
			if err := addServices(&o, services, cardFile); err != nil {
				return err
			}
			if len(o.Packages) > 0 && o.Edition != firmware.Debian {
				return cli.Usagef("--package %s: only --edition debian has packages of its own", o.Packages[0])
			}
			if o.Debs != "" && o.Edition != firmware.Debian {
				return cli.Usagef("--debs %s: only --edition debian has packages of its own", o.Debs)
			}
			dir, err := firmware.CacheDir()
			if err != nil {
				return err
			}
			if o.Keyring, err = releaseKeyring(keyring); err != nil {
				return err
			}
			o.CacheDir, o.Update = dir, !offline
			if !quiet {
				o.Progress = progress.New(cmd.ErrOrStderr())
			}
			img, err := firmware.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			bringPasst(cmd.Context(), dir, offline, o.Progress)
			path := img.Path
			if output != "" {
				if err := img.Export(output); err != nil {
					return err
				}
				path = output
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), firmware.ImageStatus{Manifest: img.Manifest, Path: path, Size: img.Size, State: "current"})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&edition, "edition", string(firmware.Micro), "edition to build: micro or debian")
	f.StringVar(&target, "machine", string(firmware.QEMU), "machine to build for: qemu or uml")
	f.StringSliceVar(&o.Packages, "package", nil,
		"install this Debian package too, for edition debian; may be repeated")
	f.StringSliceVar(&services, "service", nil,
		"install the packages of this service of the catalogue, for edition debian; may be repeated")
	f.StringVarP(&cardFile, "file", "f", "", "install the packages of the services of this card.yaml, for edition debian")
	f.StringVar(&keyring, "keyring", "",
		"file of the certificates whose bundles a card installs, for edition debian\n"+
			"(default that of `toe firmware keys`, where there is one)")
	f.StringVar(&o.Arch, "arch", arch.Host().Name,
		"architecture of the card: "+strings.Join(arch.Names(), ", "))
	f.StringVar(&o.Kernel, "kernel", "",
		"series X.Y of linux-source to build, for uml (default the newest)")
	f.StringVar(&o.Mirror, "mirror", "",
		"URL of a Debian mirror (default the one this host's apt uses)")
	f.StringVar(&o.AgentPath, "agent", "", "the agent program (default toe-agent beside toe; for another architecture toe-agent-ARCH)")
	f.StringVar(&o.Debs, "debs", "", "also write the packages toe-agent and toe-kernel to this folder, for edition debian")
	f.StringVarP(&output, "output", "o", "", "also write the image to this file")
	f.BoolVar(&offline, "offline", false, "use the packages in the cache, fetch only missing ones")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// addServices adds the packages of services. The agent starts their programs, and nothing else does.
func addServices(o *firmware.Options, names []string, cardFile string) error {
	var all spec.Services
	if cardFile != "" {
		s, err := spec.Load(cardFile)
		if err != nil {
			return err
		}
		all = s.Services
	}
	for _, name := range names {
		all = append(all, spec.Service{Name: name})
	}
	for _, one := range all {
		def, err := service.Open(one.Name, one.Folder)
		if err != nil {
			return cli.Usage{Err: err}
		}
		o.Packages, o.Disabled = append(o.Packages, def.Packages...), append(o.Disabled, def.Unit)
	}
	return nil
}

func firmwareStatusCmd() *cobra.Command {
	var asJSON, refresh bool
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the firmware in the cache, or the slots and packages of a card",
		Long: `Status shows the images in the cache. With NAME it shows the slots of that card's
flash, and, while the card runs, which packages differ from the image as flashed
and which updates are pending. The card knows those from the lists of its mirrors
as it read them last; --refresh has it read them now.`,
		Args: atMostOneName, ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return printFlash(cmd, args[0], refresh, asJSON)
			}
			if refresh {
				return cli.Usagef("--refresh: which card? want a NAME")
			}
			dir, err := firmware.CacheDir()
			if err != nil {
				return err
			}
			status, err := firmware.ReadStatus(dir)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), status)
			}
			return printFirmware(cmd.OutOrStdout(), status)
		},
	}
	cmd.Flags().BoolVar(&refresh, "refresh", false, "have the card read the lists of its mirrors")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFirmware(w io.Writer, s *firmware.Status) error {
	fmt.Fprintf(w, "cache %s, %s\n", s.CacheDir, progress.Size(s.CacheBytes))
	if len(s.Images) == 0 {
		fmt.Fprintln(w, "no firmware is built; `toe firmware build` builds it")
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "EDITION\tARCH\tMACHINE\tVERSION\tKERNEL\tSIZE\tSTATE\tAGENT")
	for _, i := range s.Images {
		if i.Agent.SHA256 == "" { // it could not be read
			fmt.Fprintf(tw, "%s: %s\n", filepath.Base(i.Path), i.State)
			continue
		}
		agent := "that of this host"
		if !i.AgentKnown || i.Differs != "" {
			agent = i.Agent.String()
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Edition, i.Arch, i.Target, i.Version, i.Kernel, progress.Size(i.Size), i.State, agent)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, i := range s.Images {
		if i.State == "current" && i.Differs != "" {
			fmt.Fprintf(w, "%s for %s on %s: %s; `toe firmware build --machine %s --arch %s` puts this host's into a new image\n",
				i.Edition, i.Target, i.Arch, i.Differs, i.Target, i.Arch)
		}
	}
	return nil
}
