package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// hasFlash reports whether an edition is on a disk.
func hasFlash(edition string) bool { return firmware.Edition(edition) == firmware.Debian }

// openFlash opens the card's flash, and makes it from the image in the cache where there is none. A
// card with a flash needs the rescue system's image, too: it is brought now, while nothing is wrong.
func openFlash(ctx context.Context, c *store.Card, kind machine.Kind, p *progress.Progress) (*rom.ROM, error) {
	if !hasFlash(c.Spec.Firmware.Edition) {
		return nil, nil
	}
	r, err := rom.Open(c.Paths)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if _, err := ensure(ctx, c.Paths.Cache, string(firmware.Micro), kind, c.Spec.Machine.Arch.Row(), p); err != nil {
		return nil, fmt.Errorf("the rescue system: %w", err)
	}
	img, err := ensure(ctx, c.Paths.Cache, c.Spec.Firmware.Edition, kind, c.Spec.Machine.Arch.Row(), p)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	if err := rom.Create(ctx, c.Paths, img, int64(c.Spec.Firmware.Flash), p); err != nil {
		return nil, err
	}
	e := status.FirmwareEvent{
		Time: time.Now(), Who: caller(), What: "flashed", Slot: "A", Version: img.Version,
		Why: "the card's first start", Outcome: "slot A is good",
	}
	if err := rom.Record(c.Paths, e); err != nil {
		return nil, err
	}
	return rom.Open(c.Paths)
}

// caller is the user who runs this command, for histories.
func caller() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	return cmp.Or(name, fmt.Sprint("user ", os.Getuid()))
}

// printFlash prints the slots of a card, as its flash is now.
func printFlash(cmd *cobra.Command, name string, refresh, asJSON bool) error {
	c, err := openCard([]string{name})
	if err != nil {
		return err
	}
	st, err := flashStatus(c)
	if err != nil {
		return err
	}
	addPackages(cmd.Context(), c, &st, refresh)
	if asJSON {
		return cli.JSON(cmd.OutOrStdout(), st)
	}
	out := cli.Visible{Writer: cmd.OutOrStdout()}
	fmt.Fprintf(out, "flash of %s: %s, of which the host's disk holds %s\n", name, progress.Size(st.Size), progress.Size(st.OnDisk))
	if st.Default != "" {
		fmt.Fprintf(out, "%s: the default is in force\n", st.Default)
	}
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SLOT\tSTATE\tATTEMPTS\tVERSION\tKERNEL\t")
	for _, s := range st.Slots {
		var notes []string
		if s.Active {
			notes = append(notes, "started last")
		}
		if s.Primary {
			notes = append(notes, "first")
		}
		if s.Reason != "" {
			notes = append(notes, s.Reason)
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\t%s\t%s\n", s.Name, s.State, s.Attempts, cmp.Or(s.Version, "-"),
			cmp.Or(s.Kernel, "-"), strings.Join(notes, ", "))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	printPackages(out, st)
	return nil
}

func flashStatus(c *store.Card) (status.Flash, error) {
	r, err := openROM(c)
	if err != nil {
		return status.Flash{}, err
	}
	defer r.Close()
	return r.Status(c.Name)
}

// openROM opens the flash of a card that has one.
func openROM(c *store.Card) (*rom.ROM, error) {
	r, err := rom.Open(c.Paths)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if !hasFlash(c.Spec.Firmware.Edition) {
		return nil, fmt.Errorf("card %s has no flash: firmware.edition is %s; edition debian has one", c.Name, c.Spec.Firmware.Edition)
	}
	return nil, fmt.Errorf("card %[1]s has no flash yet; `toe up %[1]s` makes it", c.Name)
}

// atRest changes the flash of a card that does not run, and keeps the entry of that.
func atRest(c *store.Card, do func(*rom.ROM) (status.FirmwareEvent, error)) (status.FirmwareEvent, error) {
	l, err := c.Lock()
	if err != nil {
		return status.FirmwareEvent{}, err
	}
	defer l.Release()
	r, err := openROM(c)
	if err != nil {
		return status.FirmwareEvent{}, err
	}
	defer r.Close()
	e, err := do(r)
	if err != nil {
		return e, err
	}
	e.Time = time.Now()
	return e, rom.Record(c.Paths, e)
}

func firmwareRollbackCmd() *cobra.Command {
	var asJSON bool
	var want string
	const short = "Start the other slot of a card's flash"
	cmd := cardVerb("rollback", short, func(cmd *cobra.Command, c *store.Card) error {
		if !slices.Contains([]string{"", "A", "B"}, want) {
			return cli.Usagef("--slot %q: want A or B", want)
		}
		slot, err := client.New(c).Rollback(cmd.Context(), caller(), want)
		if err == nil {
			did := fmt.Sprintf("goes back to slot %s; see `toe status %s`", slot, c.Name)
			return outcome{c.Name, status.Starting, did}.print(cmd, asJSON)
		}
		if !errors.Is(err, client.ErrNotRunning) {
			return err
		}
		e, err := atRest(c, func(r *rom.ROM) (status.FirmwareEvent, error) {
			return rom.GoBack(r, caller(), rom.Hardware{}, flash.Slot(want))
		})
		if err != nil {
			return err
		}
		return outcome{c.Name, status.Stopped, fmt.Sprintf("starts slot %s at its next start", e.Slot)}.print(cmd, asJSON)
	})
	cmd.Long = `Rollback makes the slot beside the one that was started last the first, and starts the card from it. The
data partition stays. A slot that is empty or damaged is refused, and one that is bad unless --slot names it: it then
gets its attempts again.`
	cmd.Flags().StringVar(&want, "slot", "", "the slot to start, A or B (default the one that was not started last)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func firmwareHistoryCmd() *cobra.Command {
	var asJSON bool
	const short = "Show what happened to a card's firmware, and why"
	cmd := cardVerb("history", short, func(cmd *cobra.Command, c *store.Card) error {
		events, torn, err := rom.History(c.Paths)
		if err != nil {
			return err
		}
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), events)
		}
		out := cli.Visible{Writer: cmd.OutOrStdout()}
		for _, e := range events {
			printFirmwareEvent(out, e)
		}
		if torn > 0 {
			fmt.Fprintf(out, "%d entries cannot be read: they were torn by a power loss\n", torn)
		}
		if len(events) == 0 {
			fmt.Fprintf(out, "nothing yet\n")
		}
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFirmwareEvent(out cli.Visible, e status.FirmwareEvent) {
	what := e.What
	if e.Slot != "" {
		what += " slot " + e.Slot
	}
	fmt.Fprintf(out, "%s  %s: %s %s\n", e.Time.Local().Format(time.DateTime), e.Who, what, e.Version)
	for _, row := range []struct{ name, text string }{
		{"why", e.Why}, {"outcome", e.Outcome}, {"check", e.Check}, {"output", e.Output}, {"console", e.Console},
	} {
		if row.text != "" {
			fmt.Fprintf(out, "    %-8s %s\n", row.name, strings.ReplaceAll(row.text, "\n", "\n             "))
		}
	}
}
