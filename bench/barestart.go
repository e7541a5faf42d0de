package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/newc"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/qemu"
	"github.com/toe-project/toe/machine/uml"
)

// bareWords is the output of the bare machine's only program.
const bareWords = "toe-bench: the first user process"

// bareStart times a machine with a card's kernel and memory and nothing else,
// from its start to the first words of its first user process.
func (r *run) bareStart(ctx context.Context, kind machine.Kind) (took time.Duration, err error) {
	if runtime.GOARCH != "amd64" {
		return 0, fmt.Errorf("the bare machine's program is for amd64, this is %s", runtime.GOARCH)
	}
	img, err := firmware.Find(r.Cache, firmware.Micro, kind, arch.Host().Name)
	if err != nil {
		return 0, err
	}
	files, err := img.Files(ctx)
	if err != nil {
		return 0, err
	}
	defer files.Close()
	kernel := files.Kernel
	dir, err := os.MkdirTemp(r.dir, "bare-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	spec := machine.Spec{Name: "bare", Dir: dir, Kernel: kernel, Initrd: filepath.Join(dir, "initrd"), CPUs: 1, Memory: 256 << 20}
	if err := writeBareInitrd(spec.Initrd); err != nil {
		return 0, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("console: socketpair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return 0, err
	}
	console := os.NewFile(uintptr(fds[0]), "console")
	defer console.Close()
	spec.Console = os.NewFile(uintptr(fds[1]), "the machine's console")
	var m machine.Machine = qemu.New(qemu.Config{Kind: kind})
	if kind == machine.UML {
		m = uml.New(uml.Config{Kernel: kernel})
	}
	start := time.Now()
	inst, err := m.Start(ctx, spec)
	if err != nil {
		return 0, err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = errors.Join(err, inst.Stop(stop))
	}()
	defer context.AfterFunc(ctx, func() { _ = console.SetReadDeadline(time.Now()) })()
	_ = console.SetReadDeadline(start.Add(time.Minute))
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		if strings.Contains(lines.Text(), bareWords) {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("the bare %s machine said nothing within a minute: %v", kind, lines.Err())
}

// writeBareInitrd writes an initramfs of two entries: a console, so that the
// program has an output, and the program.
func writeBareInitrd(path string) error {
	var b bytes.Buffer
	err := newc.Write(&b, []newc.File{
		newc.Dir("/dev", 0o755),
		{Name: "/dev/console", Mode: os.ModeDevice | os.ModeCharDevice | 0o600, Dev: [2]uint32{5, 1}},
		newc.Regular("/init", 0o755, bareProgram()),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// bareProgram is an ELF64 program for amd64 of one segment, as small as possible: write(1, words),
// then pause in a loop.
func bareProgram() []byte {
	const base, headers = 0x400000, 64 + 56
	words := []byte(bareWords + "\n")
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, SYS_write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip+…]: the words, behind the code
		0xba, byte(len(words)), 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // back to the mov
	}
	const behindLea = 17
	binary.LittleEndian.PutUint32(code[behindLea-4:], uint32(len(code)-behindLea))
	size := uint64(headers + len(code) + len(words))
	b := bytes.NewBuffer([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), // ET_EXEC, EM_X86_64, version
		uint64(base + headers), uint64(64), uint64(0), uint32(0), // entry, program headers, no sections, flags
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // PT_LOAD, R+X
	} {
		_ = binary.Write(b, binary.LittleEndian, v) // a bytes.Buffer takes all
	}
	b.Write(code)
	b.Write(words)
	return b.Bytes()
}
