package firmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/toe-project/toe/internal/newc"
	"github.com/toe-project/toe/machine"
)

// base is what an image is made of besides the agent.
type base struct {
	kernel   []byte
	release  string // of the kernel, as uname -r has it
	config   string // hash of our kernel configuration; empty for Debian's kernels
	busybox  []byte
	modules  []newc.File
	packages []Package
}

// Build makes an image and puts it into the cache, where Find gets it. It
// takes the packages from the cache when they are there, unless o.Update.
func Build(ctx context.Context, o Options) (*Image, error) {
	o, err := o.normal()
	if err != nil {
		return nil, err
	}
	agent, err := readAgent(o.AgentPath, o.Arch)
	if err != nil {
		return nil, err
	}
	unlock, err := lockCache(ctx, o.CacheDir, fmt.Sprintf("building firmware %s for %s", o.Edition, o.Target), o.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := build(ctx, o, agent)
	if err != nil {
		return nil, fmt.Errorf("building firmware %s for %s: %w", o.Edition, o.Target, err)
	}
	return img, nil
}

func build(ctx context.Context, o Options, agent []byte) (*Image, error) {
	b, err := collect(ctx, o)
	if err != nil {
		return nil, err
	}
	stage := o.Progress.Stage("packing firmware", 0)
	img, err := assemble(o, b, agent)
	if err != nil {
		stage.Fail(err)
		return nil, err
	}
	stage.Done(fmt.Sprintf("%s, kernel %s", img.Version, img.Kernel))
	return img, nil
}

// assemble needs no network and no other program: the same base and agent
// give the same bytes.
func assemble(o Options, b *base, agent []byte) (*Image, error) {
	initramfs, err := microInitramfs(b, agent)
	if err != nil {
		return nil, err
	}
	m := describe(Manifest{
		Edition: o.Edition, Arch: o.Arch, Target: o.Target,
		Kernel: b.release, Config: b.config, Agent: member("", agent).SHA256,
		Packages: b.packages,
	}, b.kernel, initramfs)
	return store(o.CacheDir, m, b.kernel, initramfs)
}

// Ensure gives the cached image for a kind of machine if it was built from
// the agent at hand, and builds one otherwise. With everything cached it
// starts no program and uses no network; a new agent alone is put in with
// the packages and the kernel that are there.
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
	if err == nil {
		err = img.CheckAgent(o.AgentPath)
	}
	switch {
	case err == nil, img != nil && errors.Is(err, fs.ErrNotExist): // no agent to compare with
		return img, nil
	case errors.Is(err, ErrNotBuilt), errors.Is(err, ErrStale), errors.Is(err, ErrInvalid):
		o.keepKernel = true
		return Build(ctx, o)
	}
	return nil, err
}
