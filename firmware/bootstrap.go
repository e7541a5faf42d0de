package firmware

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/internal/apt"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/progress"
)

// excluded keeps dpkg from unpacking manuals and translations, in the build and later on the card.
// Translations are a fifth of the system. Licences stay.
var excluded = []string{
	"path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/bug/*",
	"path-exclude=/usr/share/lintian/*", "path-exclude=/usr/share/locale/*",
	"path-include=/usr/share/locale/locale.alias",
	"path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
}

// bootstrap makes the tar of a root with mmdebstrap, which needs no root where the user has
// subordinate IDs (subuid(5)). Next to the tar is dpkg's list of what is installed.
func bootstrap(ctx context.Context, o Options, root *apt.Root, packages []string, to string) error {
	stage := o.Progress.Stage("installing Debian 13 into a root", 0)
	if err := runBootstrap(ctx, o, root, packages, to, noter{stage}); err != nil {
		stage.Fail(err)
		return err
	}
	info, err := os.Stat(to)
	if err != nil {
		stage.Fail(err)
		return err
	}
	stage.Done(fmt.Sprintf("%d MB", info.Size()/1e6))
	return nil
}

// unsafe is dpkg's option that does not sync each file.
const unsafe = "force-unsafe-io"

func runBootstrap(ctx context.Context, o Options, root *apt.Root, packages []string, to string, said io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	atomicfile.Sweep(filepath.Dir(to))
	sources, settings := root.Sources()
	args := []string{"--format=tar", "--variant=minbase", "--architectures=" + o.Arch,
		"--include=" + strings.Join(packages, ","),
		// A tar that a crash of the host damages is not renamed. The card's dpkg does sync.
		"--dpkgopt=" + unsafe, `--customize-hook=sed -i /` + unsafe + `/d "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"`,
		// What says how to reach the mirror is this host's, and not the card's.
		`--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"`}
	for _, line := range excluded {
		args = append(args, "--dpkgopt="+line)
	}
	for _, line := range settings {
		args = append(args, "--aptopt="+line)
	}
	var status []byte
	err := atomicfile.WriteFunc(to, 0o644, func(w io.Writer) error {
		pr, pw := io.Pipe()
		read := make(chan error, 1)
		go func() {
			var err error
			status, err = statusOf(pr)
			_ = pr.CloseWithError(err) // the writer ends, where the tar is damaged
			read <- err
		}()
		var words bytes.Buffer
		cmd := command(ctx, "mmdebstrap", append(args, debianSuites[0], "-", sources)...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", int64(debianEpoch)), "LC_ALL=C.UTF-8")
		cmd.Stdout, cmd.Stderr = io.MultiWriter(w, pw), io.MultiWriter(&words, said)
		err := cmd.Run()
		_ = pw.CloseWithError(err) // nil is the end of the file
		readErr := <-read
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("mmdebstrap: %w; its last words:\n%s", err, lastLines(words.String(), logTail))
		}
		return readErr
	})
	if err != nil {
		return err
	}
	return atomicfile.Write(to+".status", status, 0o644)
}

// noter shows what mmdebstrap says that it does: lines that begin with "I: ".
type noter struct{ stage *progress.Stage }

func (n noter) Write(b []byte) (int, error) {
	if line, ok := strings.CutPrefix(string(b), "I: "); ok {
		line, _, _ = strings.Cut(line, "\n")
		n.stage.Note(strings.TrimSuffix(line, "..."))
	}
	return len(b), nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}

// dpkgStatus is dpkg's list of packages in a root.
const dpkgStatus = "/var/lib/dpkg/status"

// statusOf returns dpkg's list from the tar of a root, and reads the tar to its end.
func statusOf(r io.Reader) (status []byte, err error) {
	buffered := bufio.NewReaderSize(r, 1<<20)
	tr := tar.NewReader(buffered)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the tar of mmdebstrap: %w", err)
		}
		if path.Clean("/"+h.Name) == dpkgStatus {
			if status, err = io.ReadAll(io.LimitReader(tr, maxManifest*16)); err != nil {
				return nil, err
			}
		}
	}
	if status == nil {
		return nil, fmt.Errorf("the tar of mmdebstrap has no %s", dpkgStatus)
	}
	_, err = io.Copy(io.Discard, buffered)
	return status, err
}
