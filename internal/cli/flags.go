package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/toe-project/toe/internal/suggest"
)

// RunsCommand is the annotation of a command that takes another command line
// behind "--". An error in its flags says so.
const RunsCommand = "runs-command"

// flagError turns pflag's typed errors into Usage in this project's words.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return noSuchCommand(cmd, args) // and its flags cannot be known
	}
	text := flagText(cmd, err)
	if _, ok := cmd.Annotations[RunsCommand]; ok {
		const hint = "%s; the command to run comes after --, as in `%s -- CMD`"
		return Usagef(hint, text, cmd.CommandPath())
	}
	return Usage{errors.New(text)}
}

func flagText(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var value *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return "unknown flag -" + name[:1] // a byte, as pflag takes them
		}
		return "unknown flag --" + name + suggest.DidYouMean(name, flagNames(cmd)...)
	case errors.As(err, &missing):
		return fmt.Sprintf("--%s: no value: want %s", missing.GetFlag().Name, want(missing.GetFlag()))
	case errors.As(err, &value):
		f := value.GetFlag()
		return fmt.Sprintf("--%s: %q: want %s", f.Name, value.GetValue(), want(f))
	case errors.As(err, &syntax):
		return fmt.Sprintf("flag %q: want --NAME or --NAME=VALUE", syntax.GetSpecifiedFlag())
	}
	return err.Error()
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// want describes the value of a flag by its type.
func want(f *pflag.Flag) string {
	switch t := f.Value.Type(); t {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "uint", "uint32", "uint64":
		return "a whole number, 0 or more"
	case "float64":
		return "a number"
	case "duration":
		return "a time, such as 30s or 2m"
	case "string":
		return f.Usage
	case "stringSlice":
		return "words separated by commas"
	default:
		return t
	}
}
