package firmware

import (
	"bytes"
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/newc"
)

// Nano is a kernel without MMU and one small program as PID 1: Go needs an MMU. Its architecture is
// arch.NoMMU.
const Nano Edition = "nano"

//go:embed nano/init.c
var nanoInit []byte

// nanoConfig holds the kernel's options beyond make allnoconfig.
//
//go:embed nano/config
var nanoConfig []byte

const nanoCross = "riscv64-linux-gnu-"

// nanoHeaders has the kernel's interface for programs. The header files of the kernel's own sources
// would take as long to make as a tenth of the kernel.
const nanoHeaders = "/usr/riscv64-linux-gnu/include"

var nanoRecipe = recipe{
	name: "nommu", title: "a CPU without MMU", version: "1",
	file: "firmware/nano/config", config: nanoConfig,
	args: []string{"ARCH=riscv", "CROSS_COMPILE=" + nanoCross}, arches: []string{"riscv"},
	needs: []string{"drivers/clk/", "drivers/irqchip/", "drivers/mfd/", "drivers/pci/", "drivers/power/"},
	tools: nanoTools, check: checkNanoHeaders, goal: "Image", steps: 1130,
	kernel: "Image", finish: finishNano,
}

var nanoTools = map[string]string{
	nanoCross + "gcc": "gcc-riscv64-linux-gnu", nanoCross + "ld": "binutils-riscv64-linux-gnu",
	"gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils", "perl": "perl",
	"awk": "mawk", "sed": "sed",
}

func checkNanoHeaders(context.Context) error {
	if _, err := os.Stat(filepath.Join(nanoHeaders, "linux/rtnetlink.h")); err != nil {
		return fmt.Errorf("%w: %w; fix: apt-get install linux-libc-dev-riscv64-cross", ErrTools, err)
	}
	return nil
}

// finishNano keeps the kernel and nolibc, the kernel's own C library of header files.
func finishNano(_ context.Context, k *kernelBuild) error {
	image, err := os.ReadFile(filepath.Join(k.tree, "arch/riscv/boot/Image"))
	if err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(k.tree, "include/config/kernel.release"))
	if err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(k.out, "nolibc"), os.DirFS(filepath.Join(k.tree, "tools/include/nolibc"))); err != nil {
		return err
	}
	return errors.Join(
		atomicfile.Write(filepath.Join(k.out, "Image"), image, 0o644),
		atomicfile.Write(filepath.Join(k.out, "release"), release, 0o644))
}

func buildNano(ctx context.Context, o Options) (*Image, error) {
	// The sources are the same for every architecture. They come by the host's apt root, which has
	// them for User-Mode Linux too.
	host := o
	host.Arch, host.Target = arch.Host().Name, UML
	release := host.row().Releases[0]
	root, err := openRoot(ctx, host, release)
	if err != nil {
		return nil, err
	}
	r, _, err := packages(ctx, host, root, release)
	if err != nil {
		return nil, err
	}
	b := &base{packages: []Package{asPackage(r.Kernel)}}
	dir, err := collectKernel(ctx, host, root, &nanoRecipe, r.Kernel, b)
	if err != nil {
		return nil, err
	}
	if err := saveResolved(host, r); err != nil {
		return nil, err
	}
	stage := o.Progress.Stage("compiling the nano edition's init", 0)
	program, err := compileNano(ctx, filepath.Join(dir, "nolibc"))
	if err != nil {
		stage.Fail(err)
		return nil, err
	}
	stage.Done(fmt.Sprintf("%d bytes", len(program)))
	initramfs, err := nanoInitramfs(program)
	if err != nil {
		return nil, err
	}
	return storeImage(o, b, program, initramfs, nil)
}

func nanoInitramfs(program []byte) ([]byte, error) {
	var out bytes.Buffer
	err := newc.Write(&out, []newc.File{
		newc.Dir("/", 0o755), newc.Dir("/dev", 0o755), newc.CharDevice("/dev/console", 0o600, 5, 1),
		newc.Dir("/proc", 0o555), newc.Regular("/init", 0o755, program),
	})
	return out.Bytes(), err
}

// compileNano compiles the init. The code addresses its data relative to itself, and the program is
// linked position-independent: the kernel loads it as one piece wherever there is room.
func compileNano(ctx context.Context, nolibc string) ([]byte, error) {
	if err := needTools(nanoTools); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "toe-nano-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	builtin, err := command(ctx, nanoCross+"gcc", "-print-file-name=include").Output()
	if err != nil {
		return nil, fmt.Errorf("%sgcc: %w", nanoCross, err)
	}
	program := filepath.Join(dir, "init")
	cmd := command(ctx, nanoCross+"gcc",
		"-march=rv64imac_zicsr", "-mabi=lp64", "-mcmodel=medany", "-Os", "-fno-pie", "-static-pie",
		"-nostdlib", "-nostdinc", "-ffreestanding", "-fno-stack-protector", "-DNOLIBC_IGNORE_ERRNO",
		"-Wall", "-Wextra", "-Werror", "-I", nolibc, "-isystem", nanoHeaders,
		"-isystem", strings.TrimSpace(string(builtin)), "-Wl,-z,noexecstack,--no-dynamic-linker,--build-id=none,-s",
		"-o", program, "-x", "c", "-")
	cmd.Stdin = bytes.NewReader(nanoInit)
	if words, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%sgcc init.c: %w\n%s", nanoCross, err, words)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	return b, checkNano(b)
}

// checkNano refuses a program with relocations, because nothing would apply them.
func checkNano(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	if err := arch.NoMMU.CheckELF(f); err != nil {
		return err
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_RELA && s.Size > 0 {
			return fmt.Errorf("init.c: section %s has %d relocations, want none", s.Name, s.Size/24)
		}
	}
	return nil
}
