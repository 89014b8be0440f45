package tsh

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/tsh/output"
)

// formatFlag adds --format to the command.
func formatFlag(cmd *cobra.Command) *output.Format {
	f := output.Text
	cmd.Flags().Var(&f, "format", "output format: text, json or yaml")
	completions := cobra.FixedCompletions(output.Formats, cobra.ShellCompDirectiveNoFileComp)
	_ = cmd.RegisterFlagCompletionFunc("format", completions) // the flag exists
	return &f
}

// write writes v to standard output as JSON or YAML. For the text format it calls text with standard output
// instead; text may be nil if format is never the text format. An error becomes an Internal fault.
func (a *app) write(format output.Format, v any, text func(io.Writer) error) error {
	var err error
	switch format {
	case output.JSON:
		err = output.WriteJSON(a.Stdout, v)
	case output.YAML:
		err = output.WriteYAML(a.Stdout, v)
	default:
		err = text(a.Stdout)
	}
	return stdoutFault(err)
}

// stdoutFault describes a failed write to standard output. It is nil for a nil error.
func stdoutFault(err error) error {
	return stdoutUnwritable.Wrap(err, "")
}

// join separates the elements by commas, for messages and table cells.
func join[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}
