package firmware

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

// killGrace is the time between SIGTERM and SIGKILL once ctx has ended.
const killGrace = 5 * time.Second

// command is a program in a process group of its own. The group gets SIGTERM when ctx ends, and the
// program SIGKILL after killGrace.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killGrace
	return cmd
}

// readDeb returns the contents of the files of a .deb that want accepts, by absolute name. It
// writes nothing to disk.
func readDeb(ctx context.Context, deb string, want func(name string) bool) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := walkDeb(ctx, deb, func(name string, r io.Reader) error {
		if !want(name) {
			return nil
		}
		b, err := io.ReadAll(io.LimitReader(r, maxMember+1))
		if len(b) > maxMember {
			return fmt.Errorf("%s: more than %d bytes", name, maxMember)
		}
		files[name] = b
		return err
	})
	return files, err
}

// errEnough ends a walk early without an error.
var errEnough = errors.New("enough")

// walkDeb calls each for every regular file in a .deb.
func walkDeb(asked context.Context, deb string, each func(name string, r io.Reader) error) error {
	ctx, cancel := context.WithCancel(asked)
	defer cancel()
	var complaint bytes.Buffer
	cmd := command(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpacking %s: %w", deb, err)
	}
	err = walkTar(out, each)
	if err != nil {
		cancel() // the rest of its output is not needed
	}
	waitErr := cmd.Wait()
	switch {
	case errors.Is(err, errEnough):
		return nil
	case asked.Err() != nil: // other errors follow from it
		return fmt.Errorf("unpacking %s: %w", deb, asked.Err())
	case err != nil && complaint.Len() > 0:
		return fmt.Errorf("unpacking %s: %w: %s", deb, err, strings.TrimSpace(complaint.String()))
	case err != nil:
		return fmt.Errorf("unpacking %s: %w", deb, err)
	case waitErr != nil:
		return fmt.Errorf("unpacking %s: %w: %s", deb, waitErr, strings.TrimSpace(complaint.String()))
	}
	return nil
}

func walkTar(r io.Reader, each func(name string, r io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			// The writer blocks until the bytes after the end of the archive are read.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		if hdr.Typeflag != tar.TypeReg {
			continue
		}
		if err := each(path.Clean("/"+hdr.Name), tr); err != nil {
			return err
		}
	}
}

// unxz decompresses with the host's xz program.
func unxz(ctx context.Context, compressed []byte) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd := command(ctx, "xz", "-dc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(compressed), &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("xz -dc: %w", ctx.Err())
		}
		return nil, fmt.Errorf("xz -dc: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}
