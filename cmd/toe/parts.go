package main

import (
	"context"
	"log"
	"net/netip"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/supervisor"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// realParts are what a supervisor of this host is made of.
func realParts(c *store.Card, logger *log.Logger, p *progress.Progress) supervisor.Parts {
	a := c.Spec.Row()
	kinds := machines(c.Paths.Cache, c.Name, a)
	parts := supervisor.Parts{
		Choose: kinds.Choose,
		Image: func(ctx context.Context, edition string, kind machine.Kind) (supervisor.Image, error) {
			return image(ctx, c.Paths.Cache, edition, kind, a, p)
		},
		Network: hostnet.NewHost(c, logger.Printf),
		Keeper:  supervisor.LinkKeeper,
		Flash: func(ctx context.Context, c *store.Card, kind machine.Kind) (*rom.ROM, error) {
			return openFlash(ctx, c, kind, p)
		},
		Disk: supervisor.FileDisk,
		Control: func(addr netip.AddrPort, keys control.Keys, dial control.DialFunc) (cardpb.CardClient, func(), error) {
			client, err := control.Dial(addr, keys, dial)
			if err != nil {
				return nil, nil, err
			}
			return client, client.Close, nil
		},
		Limits: supervisor.DefaultLimits(),
	}
	if c.Spec.Nano() {
		parts.Nano()
	}
	return parts
}

// ensure gives firmware from the cache, built now if it is not there.
func ensure(
	ctx context.Context, cache, edition string, kind machine.Kind, a arch.Arch, p *progress.Progress,
) (*firmware.Image, error) {
	ring, err := releaseKeyring("")
	if err != nil {
		return nil, err
	}
	return firmware.Ensure(ctx, kind, firmware.Options{
		Edition: firmware.Edition(edition), Arch: a.Name, CacheDir: cache, Version: cli.Version(buildVersion),
		Keyring: ring, Progress: p,
	})
}

// image gives the files of firmware.
func image(
	ctx context.Context, cache, edition string, kind machine.Kind, a arch.Arch, p *progress.Progress,
) (supervisor.Image, error) {
	img, err := ensure(ctx, cache, edition, kind, a, p)
	if err != nil {
		return supervisor.Image{}, err
	}
	files, err := img.Files(ctx)
	if err != nil {
		return supervisor.Image{}, err
	}
	return supervisor.Image{
		Edition: string(img.Edition), Version: img.Version, KernelVersion: img.Kernel, Digest: img.Digest(),
		AgentVersion: img.Agent.Version, AgentSHA256: img.Agent.SHA256,
		Kernel: files.Kernel, Initrd: files.Initrd, InUse: files,
	}, nil
}

// compareAgent fills in how the card's agent differs from the one that a build on this host takes.
func compareAgent(st *status.Status) {
	if host, err := firmware.HostAgent(st.Machine.Arch); err == nil && st.Firmware.Edition != string(firmware.Nano) {
		st.Firmware.Differs = firmware.Agent{Version: st.Firmware.Agent, SHA256: st.Firmware.AgentSHA256}.Difference(host)
	}
}

// umlBuilt reports whether the quick kernel is at hand.
func umlBuilt(cache string) bool {
	_, err := firmware.Find(cache, firmware.Micro, machine.UML, arch.Host().Name)
	return err == nil
}
