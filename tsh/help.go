package tsh

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
)

// helpCmd replaces cobra's, which shows the help of something else for a command that is not there, and calls
// it done.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND…]",
		Short: "Say what a command does",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			if of, rest, err := c.Root().Find(args); err == nil && len(rest) == 0 {
				for _, sub := range of.Commands() {
					if sub.IsAvailableCommand() {
						names = append(names, sub.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q for %q", rest[0], of.CommandPath())
			}
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// sftpCmd tells those who try it what there is in its place.
func sftpCmd() *cobra.Command {
	return &cobra.Command{
		Use:                "sftp",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fault.New(
				fault.Invalid,
				"",
				"tsh has no sftp of its own",
				"copy with tsh scp, or use OpenSSH's: tsh config > ~/.ssh/threshold.conf, then sftp -F ~/.ssh/threshold.conf LOGIN@NODE.CLUSTER",
			)
		},
	}
}
