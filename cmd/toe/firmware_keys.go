package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/firmware/release"
	"github.com/toe-project/toe/internal/cli"
)

func firmwareKeysCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, show and rotate the keys that sign firmware",
		Long: `Keys are an authority and a release certificate that it issues. The release
certificate signs bundles. Cards trust the authority: its certificate is in the
keyring of each image. The authority's key, ca.pem, is needed only to rotate;
keep it on another medium.`,
	}
	cmd.AddCommand(keysInitCmd(), keysShowCmd(), keysRotateCmd())
	return cmd
}

// keysFlags are the flags that the verbs of keys share.
type keysFlags struct {
	dir    string
	asJSON bool
}

func (k *keysFlags) add(cmd *cobra.Command) {
	addKeysDir(cmd, &k.dir)
	cmd.Flags().BoolVar(&k.asJSON, "json", false, "print JSON")
}

func addKeysDir(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "keys", "", "folder of the keys (default .release in the state folder)")
}

// keysDir is the folder of keys that the flag names, or the default one. No card can have its name.
func keysDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	dirs, err := store.DefaultDirs()
	return filepath.Join(dirs.State, ".release"), err
}

func (k *keysFlags) open() (*release.Keys, error) {
	dir, err := keysDir(k.dir)
	if err != nil {
		return nil, err
	}
	return release.Open(dir)
}

func (k *keysFlags) print(cmd *cobra.Command, keys *release.Keys) error {
	s := keys.Status()
	if k.asJSON {
		return cli.JSON(cmd.OutOrStdout(), s)
	}
	return printKeys(cmd.OutOrStdout(), s, time.Now())
}

func printKeys(w io.Writer, s release.Status, now time.Time) error {
	fmt.Fprintf(w, "keys in %s\n", s.Dir)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ROLE\tNAME\tISSUER\tVALID UNTIL\tSTATE\tSHA256")
	for _, c := range s.Certificates {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%.16s\n",
			c.Role, c.Name, c.Issuer, c.Until.Format(time.DateOnly), c.State(now), c.Fingerprint)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	where := "here; keep it on another medium"
	if !s.Authority {
		where = "not here; `toe firmware keys rotate` needs --ca"
	}
	_, err := fmt.Fprintf(w, "the authority's key is %s\n", where)
	return err
}

func keysInitCmd() *cobra.Command {
	var k keysFlags
	var o release.Options
	var caDays, days int
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make an authority and a release certificate",
		Example: "  toe firmware keys init --name \"Example Ltd\"",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Authority, err = validity("--authority-days", caDays); err != nil {
				return err
			}
			if o.Release, err = validity("--days", days); err != nil {
				return err
			}
			dir, err := keysDir(k.dir)
			if err != nil {
				return err
			}
			keys, err := release.Init(dir, o)
			if err != nil {
				return err
			}
			return k.print(cmd, keys)
		},
	}
	k.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "toe", "name of the releasing organisation")
	addDays(cmd, &caDays, &days)
	return cmd
}

func addDays(cmd *cobra.Command, authority, releaseDays *int) {
	const day = 24 * time.Hour
	cmd.Flags().IntVar(authority, "authority-days", int(release.DefaultAuthority/day),
		"validity of a new authority in days")
	cmd.Flags().IntVar(releaseDays, "days", int(release.DefaultRelease/day),
		"validity of the release certificate in days")
}

func validity(flag string, days int) (time.Duration, error) {
	if days < 1 || days > 36500 {
		return 0, cli.Usagef("%s %d: want 1 to 36500 days", flag, days)
	}
	return time.Duration(days) * 24 * time.Hour, nil
}

func keysShowCmd() *cobra.Command {
	var k keysFlags
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the certificates and when they expire",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := k.open()
			if err != nil {
				return err
			}
			return k.print(cmd, keys)
		},
	}
	k.add(cmd)
	return cmd
}

func keysRotateCmd() *cobra.Command {
	var k keysFlags
	var o release.Options
	var authority, drop bool
	var caDays, days int
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the release key, or the authority",
		Long: `Rotate replaces the release key and its certificate. Cards need no change.

With --authority it makes another authority too. The keyring of new images then
has both. Cards with older images accept new bundles, until the old authority
expires: the old one has vouched for the new one. When all cards have a new image,
--drop-old takes the old authority out of the keyring.`,
		Example: "  toe firmware keys rotate --ca /media/safe/ca.pem",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if authority && drop {
				return cli.Usagef("--authority and --drop-old are mutually exclusive")
			}
			var err error
			if o.Authority, err = validity("--authority-days", caDays); err != nil {
				return err
			}
			if o.Release, err = validity("--days", days); err != nil {
				return err
			}
			keys, err := k.open()
			if err != nil {
				return err
			}
			switch {
			case drop:
				err = keys.DropAuthorities()
			case authority:
				err = keys.RotateAuthority(o)
			default:
				err = keys.Rotate(o)
			}
			if err != nil {
				return err
			}
			return k.print(cmd, keys)
		},
	}
	k.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.CA, "ca", "", "path of ca.pem (default in the folder of the keys)")
	f.BoolVar(&authority, "authority", false, "make another authority, which the old one vouches for")
	f.BoolVar(&drop, "drop-old", false, "take older authorities out of the keyring")
	addDays(cmd, &caDays, &days)
	return cmd
}
