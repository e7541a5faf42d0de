package firmware

import (
	"context"
	"errors"
	"fmt"

	"github.com/toe-project/toe/internal/newc"
	"github.com/toe-project/toe/machine"
)

// base holds everything of an image except the agent.
type base struct {
	kernel   []byte
	release  string // of the kernel, as uname -r has it
	config   string // hash of our kernel configuration; empty for Debian's kernels
	busybox  []byte
	modules  []newc.File
	tree     map[string][]byte // what the kernel's package has below /usr/lib/modules/RELEASE
	packages []Package
}

// Build makes an image and stores it in the cache for Find. Packages in the cache are reused unless
// o.Update is set.
func Build(ctx context.Context, o Options) (*Image, error) {
	o, err := o.normal()
	if err != nil {
		return nil, err
	}
	var agent []byte
	if o.Edition != Nano {
		if err := ensureAgent(ctx, o); err != nil {
			return nil, err
		}
		if agent, err = readAgent(o.AgentPath, o.row()); err != nil {
			return nil, err
		}
	}
	unlock, err := lockCache(ctx, o.CacheDir, fmt.Sprintf("building firmware %s for %s on %s", o.Edition, o.Target, o.Arch), o.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := build(ctx, o, agent)
	if err != nil {
		return nil, fmt.Errorf("building firmware %s for %s on %s: %w", o.Edition, o.Target, o.Arch, err)
	}
	return img, nil
}

func build(ctx context.Context, o Options, agent []byte) (*Image, error) {
	if o.Edition == Nano {
		return buildNano(ctx, o)
	}
	b, err := collect(ctx, o)
	if err != nil {
		return nil, err
	}
	var more []content
	if o.Edition == Debian {
		if more, err = debianRoot(ctx, o, b, agent); err != nil {
			return nil, err
		}
	}
	stage := o.Progress.Stage("packing firmware", 0)
	img, err := assemble(o, b, agent, more)
	if err != nil {
		stage.Fail(err)
		return nil, err
	}
	stage.Done(fmt.Sprintf("%s, kernel %s, %d MB", img.Version, img.Kernel, img.Size/1e6))
	return img, nil
}

// assemble needs no network and runs no program. The same base and agent give the same bytes. more
// are the members of the edition.
func assemble(o Options, b *base, agent []byte, more []content) (*Image, error) {
	initramfs, err := microInitramfs(b, agent)
	if err != nil {
		return nil, err
	}
	return storeImage(o, b, agent, initramfs, more)
}

func storeImage(o Options, b *base, agent, initramfs []byte, more []content) (*Image, error) {
	contents := append([]content{{name: kernelName, data: b.kernel}, {name: initramfsName, data: initramfs}}, more...)
	m := describe(Manifest{
		Edition: o.Edition, Arch: o.Arch, Target: o.Target,
		Kernel: b.release, Config: b.config, Agent: agentOf(agent), Packages: b.packages,
	}, contents)
	return store(o.CacheDir, m, contents)
}

// Ensure returns the cached image for a kind of machine. It builds one if the cache has none that
// this version can read. With everything cached it starts no program and uses no network. The agent
// of a cached image is not replaced.
func Ensure(ctx context.Context, kind machine.Kind, o Options) (*Image, error) {
	target, err := TargetOf(kind)
	if err != nil {
		return nil, err
	}
	o.Target = target
	if o, err = o.normal(); err != nil {
		return nil, err
	}
	img, err := find(o.CacheDir, o.Edition, o.Target, o.Arch)
	if errors.Is(err, ErrInvalid) {
		o.Progress.Log("the firmware in the cache cannot be read, building it again: %v", err)
	}
	if errors.Is(err, ErrNotBuilt) || errors.Is(err, ErrInvalid) {
		return Build(ctx, o)
	}
	return img, err
}
