package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/tail"
	"github.com/toe-project/toe/machine"
	"golang.org/x/sys/unix"
)

// probeLimit bounds a probe. A trimmed kernel takes 0.2 s to its first process.
const probeLimit = 5 * time.Second

// Probe boots the kernel, in the same cell as a card, to a user process of a few instructions. This
// finds a kernel that is not built, a host without user namespaces, and kernels that panic when
// they first restore the registers of a program (versions before 6.16 or so on a CPU with AMX).
func (m *Machine) Probe(ctx context.Context) (string, error) {
	if m.cfg.Kernel == "" {
		return "", errors.New("User-Mode Linux: no kernel is built (make native)")
	}
	if _, err := os.Stat(m.cfg.Kernel); err != nil {
		return "", fmt.Errorf("User-Mode Linux: its kernel is not built: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	begin := time.Now()
	if err := m.tryBoot(ctx); err != nil {
		return "", fmt.Errorf("User-Mode Linux: kernel %s: %w", m.cfg.Kernel, err)
	}
	return fmt.Sprintf("User-Mode Linux ran a program after %.2f s", time.Since(begin).Seconds()), nil
}

func (m *Machine) tryBoot(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "toe-uml-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, probeInitrd(), 0o600); err != nil {
		return err
	}
	ours, console, err := socketpair()
	if err != nil {
		return err
	}
	defer ours.Close()
	inst, err := m.Start(ctx, machine.Spec{
		Name: "probe", Dir: dir, Kernel: m.cfg.Kernel, Initrd: initrd, CPUs: 1, Memory: 64 << 20, Console: console,
	})
	if err != nil {
		return err
	}
	return judge(ctx, inst, ours)
}

// judge waits for the probe program's line and its power-off.
func judge(ctx context.Context, inst machine.Instance, console *os.File) error {
	var said tail.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := console.Read(buf)
			_, _ = said.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	var timedOut bool
	select {
	case <-inst.Done():
	case <-ctx.Done():
		timedOut = true
	}
	// A new context, because ctx may have ended.
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := inst.Stop(end); err != nil {
		return err
	}
	<-read
	switch {
	case strings.Contains(said.String(), probeWords):
		return nil
	case timedOut:
		return fmt.Errorf("waiting for its first program: %w; its last line was %q", ctx.Err(), said.LastLine())
	}
	return fmt.Errorf("ended before its first program: %v; its last line was %q", inst.Exit(), said.LastLine())
}

// socketpair returns a pair of stream sockets. Go polls the first.
func socketpair() (*os.File, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console of the machine"), nil
}
