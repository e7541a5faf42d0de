package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/transfer"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

// mostProblems is how many files that were not copied are named.
const mostProblems = 20

func cpCmd() *cobra.Command {
	var recursive, asJSON bool
	most := "16GiB"
	cmd := &cobra.Command{
		Use:   "cp [-r] SRC… DST",
		Short: "Copy files and directories to a card, or from one",
		Long: `Cp copies over ssh (sftp) with the keys that ` + "`toe ssh`" + ` uses. NAME:PATH is a path on the card NAME;
a relative one begins at root's home directory. A path of the host with a colon in its first part
begins with ./

Into a directory the sources keep their names; several sources want a directory. Modes are kept,
without setuid and setgid. A file appears whole or not at all, also after Ctrl-C. What is no file,
directory or symbolic link is left out.

A card is not trusted: names that a directory cannot have or a terminal would act on, and symbolic
links that lead out of the copied directory, are left out. The exit status is 1 where something was
left out.`,
		Example: `  toe cp nft.rules edge:/etc/
  toe cp -r edge:/var/log ./edge-logs
  toe cp edge:/etc/resolv.conf /dev/shm/`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Usagef("cp: want SRC… and DST, got %q", args)
			}
			return nil
		},
		ValidArgsFunction: completePlaces,
		RunE: func(cmd *cobra.Command, args []string) error {
			job, err := parseCopy(args)
			if err != nil {
				return err
			}
			var bound spec.Memory
			if err := bound.UnmarshalText([]byte(most)); err != nil {
				return cli.Usagef("--max-size %q: %w", most, err)
			}
			c, err := openCard([]string{job.card})
			if err != nil {
				return err
			}
			res, err := job.run(cmd.Context(), c, transfer.Options{
				Recursive: recursive, MaxBytes: int64(bound), Progress: progress.New(os.Stderr),
			})
			if asJSON && err == nil {
				err = cli.JSON(cmd.OutOrStdout(), res)
			}
			if err == nil && res.Failed > 0 {
				err = fmt.Errorf("cp: %d not copied, %d copied", res.Failed, res.Files)
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy directories and what is in them")
	cmd.Flags().StringVar(&most, "max-size", most, "copy at most this much from a card")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: how many files and bytes")
	return cmd
}

// copyJob is what a command line of toe cp means.
type copyJob struct {
	card    string
	from    bool // the card, else the host
	sources []string
	target  string
}

// parseCopy finds the card's side. All sources are on one side, and the target on the other.
func parseCopy(args []string) (copyJob, error) {
	last := len(args) - 1
	card, target, toCard := splitPlace(args[last])
	job := copyJob{card: card, from: !toCard, target: target}
	for _, arg := range args[:last] {
		name, path, onCard := splitPlace(arg)
		switch {
		case onCard == toCard && onCard:
			return job, cli.Usagef("cp: %q and %q are both on a card: want one side on this host", arg, args[last])
		case onCard == toCard:
			return job, cli.Usagef("cp: neither %q nor %q is on a card: want NAME:PATH", arg, args[last])
		case onCard && job.card != "" && job.card != name:
			return job, cli.Usagef("cp: sources on %s and on %s: want one card", job.card, name)
		case path == "":
			return job, cli.Usagef("cp: %q: want a path after the colon", arg)
		}
		if onCard {
			job.card = name
		}
		job.sources = append(job.sources, path)
	}
	if err := spec.CheckName(job.card); err != nil {
		return job, cli.Usagef("cp: %w; a path of this host with a colon begins with ./", err)
	}
	return job, nil
}

// splitPlace splits NAME:PATH. A colon behind a slash belongs to a path of the host.
func splitPlace(arg string) (name, path string, onCard bool) {
	name, path, onCard = strings.Cut(arg, ":")
	if !onCard || strings.Contains(name, "/") {
		return "", arg, false
	}
	return name, path, true
}

func (j copyJob) run(ctx context.Context, c *store.Card, o transfer.Options) (transfer.Result, error) {
	named := 0
	o.Problem = func(path string, err error) {
		if named++; named <= mostProblems {
			o.Progress.Log("toe: cp: %s: %v", path, err)
		} else if named == mostProblems+1 {
			o.Progress.Log("toe: cp: … and more")
		}
	}
	// An interrupted copy removes its temporary file: the connection stays until then.
	conn, err := sshClient(ctx, c)
	if err != nil {
		return transfer.Result{}, err
	}
	defer conn.Close()
	side, err := transfer.Open(ctx, conn)
	if err != nil {
		return transfer.Result{}, fmt.Errorf("card %s: %w", c.Name, err)
	}
	defer side.Close()
	do := transfer.Upload
	if j.from {
		do = transfer.Download
	}
	res, err := do(ctx, side, j.sources, j.target, o)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("card %s: %w", c.Name, err)
	}
	return res, err
}

// completePlaces offers cards, with a colon, and leaves paths of the host to the shell.
func completePlaces(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(typed, "/:.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := dirs.List()
	var places []string
	for _, name := range names {
		if strings.HasPrefix(name, typed) {
			places = append(places, name+":")
		}
	}
	return places, cobra.ShellCompDirectiveNoSpace
}
