package firmware

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/toe-project/toe/agent/upgrade"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/newc"
)

//go:embed debian/compose.sh
var composeScript string

// ext4UUID names the file system of every root. A card has one root at a time.
const ext4UUID = "746f652d-6465-4269-a16e-2d726f6f7431"

// rootSlack is the free space in a root's file system, per cent of what it holds. The card makes
// the file system as large as its disk.
const rootSlack = 10

// composeRoot installs our packages into the root in the tar at base, and returns the compressed file
// system and dpkg's list of packages.
func composeRoot(ctx context.Context, o Options, base string, b *base, agent []byte) (root, status []byte, err error) {
	added, err := addedToRoot(ctx, o, b, agent)
	if err != nil {
		return nil, nil, err
	}
	stage := o.Progress.Stage("making the root's file system", 0)
	defer func() { stage.Fail(err) }()
	in, err := os.Open(base)
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	var compressed, list bytes.Buffer
	// One worker gives the same bytes on every host.
	z, err := zstd.NewWriter(&compressed, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, nil, err
	}
	defer z.Close()
	size := &sizeOf{w: z}
	if err := runCompose(ctx, in, added, b.release, disabledLinks(o.Disabled), size, &list); err != nil {
		return nil, nil, err
	}
	if err := z.Close(); err != nil {
		return nil, nil, err
	}
	stage.Done(fmt.Sprintf("ext4 %d MB, compressed %d MB", size.n/1e6, compressed.Len()/1e6))
	return compressed.Bytes(), list.Bytes(), nil
}

// sizeOf counts what is written.
type sizeOf struct {
	w io.Writer
	n int64
}

func (s *sizeOf) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.n += int64(n)
	return n, err
}

// runCompose runs the script: as root, or in a user namespace with the user's subordinate IDs.
func runCompose(
	ctx context.Context, base io.Reader, added []byte, kernel string, disabled []string, root, status io.Writer,
) error {
	args := []string{"sh", "-c", composeScript}
	if os.Geteuid() != 0 {
		args = append([]string{"mmdebstrap", "--unshare-helper"}, args...)
	}
	cmd := command(ctx, args[0], args[1:]...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TMPDIR=" + os.TempDir(), "HOME=/",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", int64(debianEpoch)), "EXT4_UUID=" + ext4UUID,
		fmt.Sprintf("SLACK=%d", rootSlack), "KERNEL=" + kernel, "HOLD=" + upgrade.Kernel, "FLASHED=" + upgrade.Flashed, "DISABLED=" + strings.Join(disabled, " "),
	}
	ourIn, theirIn, err := pipe()
	if err != nil {
		return err
	}
	theirOut, ourOut, err := pipe()
	if err != nil {
		ourIn.Close()
		theirIn.Close()
		return err
	}
	var words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = base, root, &words
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	err = cmd.Start()
	theirIn.Close()
	theirOut.Close()
	defer ourOut.Close()
	if err != nil {
		ourIn.Close()
		return err
	}
	go func() {
		_, _ = ourIn.Write(added) // a script that ended early closes its end
		ourIn.Close()
	}()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(status, ourOut)
		read <- err
	}()
	err = cmd.Wait()
	readErr := <-read
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("making the root's file system: %w; its last words:\n%s", err, lastLines(words.String(), logTail))
	}
	return readErr
}

// pipe returns the two ends of a pipe, the one to write first.
func pipe() (w, r *os.File, err error) {
	r, w, err = os.Pipe()
	return w, r, err
}

// addedToRoot is the tar of what the script adds to the root: our packages, and the files that make
// the root a card's.
func addedToRoot(ctx context.Context, o Options, b *base, agent []byte) ([]byte, error) {
	kernel, err := kernelPackage(o, b)
	if err != nil {
		return nil, err
	}
	files, err := newerRAUC(ctx, o, b.release)
	if err != nil {
		return nil, err
	}
	for _, p := range []debPackage{agentPackage(o, agent), kernel} {
		data, err := p.deb()
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", p.name, err)
		}
		if err := o.keepDeb(p, data); err != nil {
			return nil, err
		}
		files = append(files, newc.Regular("/deb/"+p.name+".deb", 0o644, data))
	}
	compatible := Manifest{Edition: o.Edition, Arch: o.Arch, Target: o.Target}.Compatible()
	for _, f := range append(rootFiles(), raucFiles(compatible, o.Keyring)...) {
		f.Name = "/files" + f.Name
		files = append(files, f)
	}
	var out bytes.Buffer
	err = writeTar(&out, withParents(files), "./")
	return out.Bytes(), err
}

// agentPackage is toe-agent: the program, its unit, and the settings that keep Debian's own services
// from its devices.
func agentPackage(o Options, agent []byte) debPackage {
	return debPackage{
		name: "toe-agent", version: debVersion(agentOf(agent).Version), arch: o.Arch,
		fields: "Depends: systemd, openssh-server\n" +
			"Description: agent of a toe card\n It brings up the link to the host, the ports and endpoint mode.\n",
		files: append(agentFiles(), newc.Regular("/usr/sbin/toe-agent", 0o755, agent)),
	}
}

// kernelPackage is the kernel, its modules and their lists, and the initramfs without /init. A card that
// upgrades this package makes the image file of a boot slot from them (agent/upgrade).
func kernelPackage(o Options, b *base) (debPackage, error) {
	source := "linux"
	for _, p := range b.packages {
		if strings.HasPrefix(p.Name, "linux-") {
			source = fmt.Sprintf("linux (%s)", p.Version)
		}
	}
	initrd, err := initramfs(b)
	return debPackage{
		name: upgrade.Kernel, version: debVersion(plainVersion(b.release)), arch: o.Arch,
		fields: "Source: " + source + "\nDescription: the card's kernel " + b.release + ", and its modules\n" +
			" A card starts another kernel only from another slot: toe firmware upgrade installs it.\n",
		files: append(b.rootModules(),
			newc.Regular(upgrade.BootDir+"/initramfs", 0o644, initrd),
			newc.Regular(upgrade.BootDir+"/kernel", 0o644, b.kernel),
			newc.Regular(upgrade.BootDir+"/release", 0o644, []byte(b.release+"\n"))),
	}, err
}

// keepDeb writes a package of ours into the folder that o names, for a repository.
func (o Options) keepDeb(p debPackage, data []byte) error {
	if o.Debs == "" {
		return nil
	}
	if err := os.MkdirAll(o.Debs, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(o.Debs, fmt.Sprintf("%s_%s_%s.deb", p.name, p.version, p.arch)), data, 0o644)
}
