package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/supervisor"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/service"
)

func serviceCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Show and restart the services of a card",
		Long: `A service is a program that the card runs, from the catalogue or from a folder of
your own beside card.yaml. The key services of card.yaml says which, and
"toe apply" changes them while the card runs. docs/services.md has the rest.`,
	}
	cmd.AddCommand(serviceLsCmd(), serviceStatusCmd(), serviceLogsCmd(), serviceRestartCmd())
	return cmd
}

func serviceLsCmd() *cobra.Command {
	var asJSON bool
	const short = "List the services of a card"
	cmd := cardVerb("ls", short, func(cmd *cobra.Command, c *store.Card) error {
		list, err := servicesOf(cmd, c)
		if err != nil {
			return err
		}
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has no services; there are %s\n", c.Name, strings.Join(service.Names(), ", "))
			return err
		}
		w := tabwriter.NewWriter(cli.Visible{Writer: cmd.OutOrStdout()}, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SERVICE\tSTATE\tDETAIL")
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.State, s.Detail)
		}
		return w.Flush()
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// servicesOf are the services as the card says, or those of its card.yaml where it does not run.
func servicesOf(cmd *cobra.Command, c *store.Card) ([]status.Service, error) {
	st, err := client.Status(cmd.Context(), c)
	if err != nil {
		return nil, err
	}
	list := st.Services
	if len(list) == 0 {
		list = []status.Service{}
		for _, s := range c.Spec.Services {
			list = append(list, status.Service{Name: s.Name, State: string(st.State)})
		}
	}
	return list, nil
}

// serviceVerb is a command on one service of a card: NAME of the service, and [CARD].
func serviceVerb(
	use, short string, do func(cmd *cobra.Command, c *store.Card, name, unit string) error,
) *cobra.Command {
	return &cobra.Command{
		Use: use + " SERVICE [CARD]", Short: short,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openCard(args[1:])
			if err != nil {
				return err
			}
			one, ok := c.Spec.Services.Find(args[0])
			if !ok {
				var names []string
				for _, s := range c.Spec.Services {
					names = append(names, s.Name)
				}
				return cli.Usagef("card %s has no service %q; it has %s", c.Name, args[0], cmp.Or(strings.Join(names, ", "), "none"))
			}
			def, err := service.Open(one.Name, one.Folder)
			if err != nil {
				return err
			}
			return do(cmd, c, one.Name, def.Unit)
		},
	}
}

func serviceStatusCmd() *cobra.Command {
	return serviceVerb("status", "Show how a service is, in systemd's words",
		func(cmd *cobra.Command, c *store.Card, name, unit string) error {
			list, err := servicesOf(cmd, c)
			if err != nil {
				return err
			}
			for _, s := range list {
				if s.Name == name {
					fmt.Fprintf(cli.Visible{Writer: cmd.OutOrStdout()}, "%s is %s%s\n", name, s.State, colon(s.Detail))
				}
			}
			return showOnCard(cmd, c, []string{"systemctl", "status", "--no-pager", "--full", "--lines=10", unit})
		})
}

// showOnCard shows what a command on the card prints, which is not trusted. The command has no input.
func showOnCard(cmd *cobra.Command, c *store.Card, words []string) error {
	out, errOut := cli.Visible{Writer: cmd.OutOrStdout()}, cli.Visible{Writer: cmd.ErrOrStderr()}
	return runSSHTo(cmd.Context(), c, words, strings.NewReader(""), out, errOut)
}

func serviceLogsCmd() *cobra.Command {
	var follow bool
	var last uint32
	cmd := serviceVerb("logs", "Show the log of a service, as the card's journal has it",
		func(cmd *cobra.Command, c *store.Card, _, unit string) error {
			words := []string{"journalctl", "--no-pager", "-u", unit, "-n", strconv.FormatUint(uint64(last), 10)}
			if follow {
				words = append(words, "-f")
			}
			return showOnCard(cmd, c, words)
		})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the log")
	cmd.Flags().Uint32VarP(&last, "tail", "n", 100, "only this many of the newest lines")
	return cmd
}

func serviceRestartCmd() *cobra.Command {
	return serviceVerb("restart", "Restart a service",
		func(cmd *cobra.Command, c *store.Card, name, unit string) error {
			// is-active comes after the start: a program may end at once.
			err := runSSH(cmd.Context(), c, []string{"systemctl restart " + unit + " && systemctl -q is-active " + unit})
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: service %s was restarted\n", c.Name, name)
			}
			return err
		})
}

var servicePattern = regexp.MustCompile(`service ([a-z][a-z0-9-]*): `)

// atLine adds the line of card.yaml to an error of the card about a service.
func atLine(err error, s spec.Spec) error {
	m := servicePattern.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	one, ok := s.Services.Find(m[1])
	if !ok {
		return err
	}
	return fmt.Errorf("%s: services.%s: %w", one.At, one.Name, err)
}

// diffAtRest is the difference of the files of services for a card that does not run.
func diffAtRest(c *store.Card, want spec.Spec) (string, error) {
	next := *c
	next.Spec = want
	old, err := supervisor.Services(c)
	if err != nil {
		old = nil // a folder of the old specification is gone: all is new
	}
	rendered, err := supervisor.Services(&next)
	if err != nil {
		return "", err
	}
	_, diff := supervisor.ServiceChanges(old, rendered)
	return diff, nil
}
