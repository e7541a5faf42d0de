package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/doctor"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/support"
)

func supportCmd() *cobra.Command {
	var all bool
	var output string
	cmd := &cobra.Command{
		Use:   "support NAME|--all",
		Short: "Collect what a report of a fault needs, without secrets, in one archive",
		Long: `Support writes one tar.gz with the card's status, history, logs, console and card.yaml, the checks
of toe doctor, versions, and the manifests of the firmware. It works with a card that is down and
with a supervisor that is dead or hangs; report.json in the archive says what is missing, and why.

Keys are not read into it. Private keys, pre-shared keys, passwords, tokens and the user and password
of URLs are removed from what is. Addresses and names stay: look at it before you publish it.`,
		Example:           "  toe support edge\n  toe support --all -o - | ssh helper 'cat > report.tar.gz'",
		ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, dirs, err := supportCards(args, all)
			if err != nil {
				return err
			}
			now := time.Now()
			top := "toe-support-" + now.Format("20060102-150405")
			if !all {
				top = "toe-support-" + names[0] + "-" + now.Format("20060102-150405")
			}
			if output == "" {
				output = top + ".tar.gz"
			}
			write := func(w io.Writer) ([]support.Item, error) {
				a := support.NewArchive(w, top, now)
				collectSupport(cmd.Context(), a, dirs, names, cmd.Root().Version)
				return a.Items, errors.Join(cmd.Context().Err(), a.Close())
			}
			if output == "-" {
				_, err = write(cmd.OutOrStdout())
				return err
			}
			items, err := writeWhole(output, write)
			if err != nil {
				return err
			}
			missing := 0
			for _, i := range items {
				if i.Error != "" {
					missing++
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %d could not be had (report.json says why)\n", output, len(items)-missing, missing)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every card")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file; - is standard output")
	return cmd
}

// supportCards are the cards to report on. One whose card.yaml is faulty, or gone, is none the less.
func supportCards(args []string, all bool) ([]string, store.Dirs, error) {
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, dirs, err
	}
	switch {
	case all && len(args) > 0, !all && len(args) != 1:
		return nil, dirs, cli.Usagef("support: want one NAME, or --all; got %q", args)
	case all:
		names, err := dirs.List()
		return names, dirs, err
	}
	if err := spec.CheckName(args[0]); err != nil {
		return nil, dirs, cli.Usage{Err: err}
	}
	p := dirs.Card(args[0])
	for _, dir := range []string{p.State, p.Runtime} {
		if _, err := os.Stat(dir); err == nil {
			return args, dirs, nil
		}
	}
	_, err = openCard(args)
	return nil, dirs, err
}

// writeWhole writes a file that only its owner reads, whole or not at all.
func writeWhole(path string, write func(io.Writer) ([]support.Item, error)) (items []support.Item, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".toe-support-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // in vain once it is renamed
	items, err = write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return items, os.Rename(f.Name(), path)
}

// collectSupport learns the keys of all cards before it writes the first word.
func collectSupport(ctx context.Context, a *support.Archive, dirs store.Dirs, names []string, version string) {
	p := progress.New(os.Stderr)
	for _, name := range names {
		a.Learn(dirs.Card(name).Keys())
	}
	for _, name := range names {
		stage := p.Stage("card "+name, 0)
		a.AddCard(ctx, dirs, name)
		stage.Done("")
	}
	stage := p.Stage("checking the host", 0)
	a.AddJSON(ctx, "doctor.json", 2*time.Minute, func(ctx context.Context) (any, error) {
		return doctor.Run(ctx, doctor.Host{Dirs: dirs, Machines: machines(dirs.Cache, "", arch.Host()).Machines}), nil
	})
	a.AddJSON(ctx, "firmware.json", 30*time.Second, func(context.Context) (any, error) { return firmware.ReadStatus(dirs.Cache) })
	a.AddJSON(ctx, "versions.json", 30*time.Second, func(ctx context.Context) (any, error) { return versions(ctx, version), nil })
	stage.Done("")
}

// versions are those of toe, of the host, and of the programs that cards run on.
func versions(ctx context.Context, toe string) map[string]string {
	out := map[string]string{"toe": toe, "go": runtime.Version(), "architecture": runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		out["kernel"] = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:])
	}
	if data, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				out["system"] = strings.Trim(strings.TrimSpace(name), `"`)
			}
		}
	}
	for _, words := range [][]string{{"qemu-system-x86_64", "--version"}, {"passt", "--version"}, {"ip", "-V"}, {"nft", "--version"}} {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		text, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		cancel()
		if first, _, _ := strings.Cut(string(text), "\n"); err == nil {
			out[words[0]] = first
		}
	}
	return out
}
