package tsh

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// completionTime bounds how long the Tab key waits for node names.
const completionTime = 2 * time.Second

// completionCmd is "tsh completion". The scripts call tsh with a hidden command of cobra for every Tab, so
// that they need not be written again for a new version.
func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes tsh commands and node names",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				msg := "tsh completion needs the name of one shell: bash, zsh or fish"
				return fault.New(fault.Invalid, "", msg, "for example: tsh completion bash")
			}
			return nil
		},
		ValidArgs: shells,
		Example: `  source <(tsh completion bash)      # in ~/.bashrc; needs the package bash-completion
  tsh completion zsh > "${fpath[1]}/_tsh"
  tsh completion fish > ~/.config/fish/completions/tsh.fish`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "zsh":
				return cmd.Root().GenZshCompletion(a.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.Stdout, true)
			}
			return cmd.Root().GenBashCompletionV2(a.Stdout, true)
		},
	}
}

// isCompletionRequest reports whether a completion script called tsh.
func isCompletionRequest(args []string) bool {
	names := []string{cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}
	return len(args) > 0 && slices.Contains(names, args[0])
}

// backtickFilter drops the backticks by which help texts mark the value of a flag: a shell would show them.
type backtickFilter struct{ io.Writer }

// Write reports len(p) although it may write less: nothing that the caller gave is missing.
func (f backtickFilter) Write(p []byte) (int, error) {
	_, err := f.Writer.Write(bytes.ReplaceAll(p, []byte("`"), nil))
	return len(p), err
}

// completeNode returns a function that completes arguments with node names, after a typed LOGIN@ too. suffix
// follows each name: ":" for scp. If onlyFirst is true, arguments after the first are left to the shell,
// because they are a command.
func (a *app) completeNode(suffix string, onlyFirst bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		// For scp a name is followed by ":" and a path, so no space is appended, and local files are offered
		// too.
		directive := cobra.ShellCompDirectiveNoFileComp
		if suffix != "" {
			directive = cobra.ShellCompDirectiveDefault | cobra.ShellCompDirectiveNoSpace
		}
		if onlyFirst && len(args) > 0 || strings.ContainsAny(typed, ":/") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		user, host, at := strings.Cut(typed, "@")
		if !at {
			user, host = "", typed
		} else {
			user += "@"
		}
		var out []string
		for _, n := range a.nodeNames(cmd.Context()) {
			if strings.HasPrefix(n, host) {
				out = append(out, user+n+suffix)
			}
		}
		return out, directive
	}
}

// nodeNames returns the nodes that the user can log in to. It returns none if the user is not logged in or
// the auth service does not answer.
func (a *app) nodeNames(ctx context.Context) []string {
	prof, err := a.currentLogin()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	nodes, err := a.nodes(ctx, prof, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, node := range nodes {
		// The check keeps any other text from the shell.
		if len(node.Logins) > 0 && identity.CheckMachineName(node.Name) == nil {
			out = append(out, node.Name)
		}
	}
	return out
}

// completeKind completes the kinds of resources.
func completeKind(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range access.Resources {
		out = append(out, string(r))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
