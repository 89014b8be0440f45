package tsh

import (
	"fmt"

	"github.com/spf13/cobra"
)

// helpCmd replaces cobra's help command, which shows other help for an unknown command and reports success.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND…]",
		Short:             "Show the help of a command",
		ValidArgsFunction: completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q for %q", rest[0], found.CommandPath())
			}
			if err != nil {
				return err
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// sftpCmd tells users who type "tsh sftp" what to use instead.
func sftpCmd() *cobra.Command {
	return &cobra.Command{
		Use:                "sftp",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return commandSFTPMissing.New("")
		},
	}
}

// completeCommand completes the arguments of help.
func completeCommand(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if found, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
		for _, sub := range found.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
