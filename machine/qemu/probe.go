package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
	"golang.org/x/sys/unix"
)

// probeLimit is the time limit of the guest of a few instructions, QEMU's start and the BIOS
// included. A working one takes 0.3 s. The translator gets more, because only a very busy machine
// makes it late.
func probeLimit(k machine.Kind) time.Duration {
	if k == machine.KVM {
		return 2500 * time.Millisecond
	}
	return 10 * time.Second
}

// probeStatus is QEMU's exit status after the guest has written 0x2a to its debug-exit port:
// value*2+1.
const probeStatus = 0x2a<<1 | 1

// Probe asks a QEMU for the board of the card's architecture. Where the table of architectures has
// the means, it starts the real QEMU, in the same cell as a card, with a guest of a few instructions that
// ends it with probeStatus. A smaller probe (a virtual CPU by hand, in real mode) is not enough:
// /dev/kvm may open, create a CPU and run that, and still never get a stock guest through its BIOS.
func (m *Machine) Probe(ctx context.Context) (string, error) {
	path, err := m.binary()
	if err != nil {
		return "", err
	}
	if m.cfg.Kind == machine.KVM {
		if err := openKVM(); err != nil {
			return "", err
		}
	}
	known, err := m.look(ctx, path, false)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if !m.cfg.Arch.Probe {
		return fmt.Sprintf("QEMU %d.%d has the board of %s", known.major, known.minor, m.cfg.Arch.Name), m.checkBoard(ctx, path)
	}
	if err := m.runProbe(ctx, known); err != nil {
		return "", err
	}
	return fmt.Sprintf("QEMU %d.%d (%s) ran a guest in %.2f s", known.major, known.minor, m.cfg.Kind, time.Since(begin).Seconds()), nil
}

// openKVM reports the simple reasons for a missing KVM before a guest is started.
func openKVM() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("KVM: there is no /dev/kvm")
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("KVM: %w (be in the group kvm)", err)
	}
	if err != nil {
		return fmt.Errorf("KVM: %w", err)
	}
	defer f.Close()
	const getAPIVersion = 0xae00 // linux/kvm.h, KVM_GET_API_VERSION
	if v, err := unix.IoctlRetInt(int(f.Fd()), getAPIVersion); err != nil || v != 12 {
		return fmt.Errorf("KVM: /dev/kvm says API version %d (%v), want 12", v, err)
	}
	return nil
}

func (m *Machine) runProbe(ctx context.Context, known features) error {
	dir, err := os.MkdirTemp("", "toe-qemu-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "guest")
	if err := os.WriteFile(guest, probeGuest(), 0o644); err != nil {
		return err
	}
	cell, err := m.baseCell(known.path)
	if err != nil {
		return err
	}
	cell.Argv = append([]string{"qemu-probe"}, m.baseArguments(32<<20)...)
	cell.Argv = append(cell.Argv, "-kernel", cellKernel, "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	cell.Binds = append(cell.Binds, sandbox.Bind{Source: guest, Target: cellKernel})

	ctx, cancel := context.WithTimeout(ctx, probeLimit(m.cfg.Kind))
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	proc, err := sandbox.Start(ctx, cell, sandbox.Stdio{Err: w})
	w.Close()
	if err != nil {
		return err
	}
	return m.awaitProbe(ctx, proc, r)
}

func (m *Machine) awaitProbe(ctx context.Context, proc *sandbox.Process, stderr *os.File) error {
	late := false
	select {
	case <-proc.Done():
	case <-ctx.Done():
		late = true
		_ = proc.Kill()
		<-proc.Done()
	}
	words := lastWords(stderr)
	switch status := proc.State().ExitCode(); {
	case late && m.cfg.Kind == machine.KVM:
		return fmt.Errorf("KVM: /dev/kvm opens, but a guest of five instructions did not run within %v", probeLimit(m.cfg.Kind))
	case late:
		return fmt.Errorf("QEMU: a guest of five instructions did not run within %v", probeLimit(m.cfg.Kind))
	case status != probeStatus:
		return fmt.Errorf("QEMU (%s): ended with status %d in place of running a guest: %s", m.cfg.Kind, status, words)
	}
	return nil
}

// probeGuest returns an ELF32 file with a Xen note that names its 32-bit entry point. QEMU boots an
// uncompressed kernel that way (PVH; Xen: docs/misc/pvh.pandoc, XEN_ELFNOTE_PHYS32_ENTRY). Its one
// segment is loaded at 1 MiB.
func probeGuest() []byte {
	const (
		load    = 0x100000
		headers = 52 + 2*32
		note    = 12 + 4 + 4 // header, name "Xen", entry
	)
	code := []byte{
		0xb0, 0x2a, // mov al, 0x2a
		0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
		0xee,       // out dx, al
		0xf4,       // hlt
		0xeb, 0xfd, // back to hlt
	}
	entry := uint32(load + headers + note)
	size := uint32(headers + note + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		// ET_EXEC, EM_386, version, entry, phoff, shoff, flags
		uint16(2), uint16(3), uint32(1), entry, uint32(52), uint32(0), uint32(0),
		uint16(52), uint16(32), uint16(2), uint16(0), uint16(0), uint16(0),
		// PT_LOAD
		uint32(1), uint32(0), uint32(load), uint32(load), size, size, uint32(7), uint32(0x1000),
		// PT_NOTE
		uint32(4), uint32(headers), uint32(load + headers), uint32(load + headers), uint32(note), uint32(note), uint32(4), uint32(4),
		uint32(4), uint32(4), uint32(18), [4]byte{'X', 'e', 'n'}, entry, // the note
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes all
	}
	b.Write(code)
	return b.Bytes()
}
