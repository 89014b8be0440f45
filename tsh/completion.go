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
	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// completionTime bounds how long the Tab key waits for node names.
const completionTime = 2 * time.Second

// completionCmd is "tsh completion". The script that it prints runs tsh with a hidden command of cobra at
// every Tab, so the script stays right when a new version of tsh has other commands.
func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes tsh commands and node names",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return completionShellMissing.New("")
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

// backtickFilter is a writer that drops backticks. Help texts mark the name of a flag's value with them.
type backtickFilter struct{ io.Writer }

// Write returns len(p), although it writes less if p has backticks: a smaller number would tell the caller
// that bytes were lost.
func (f backtickFilter) Write(p []byte) (int, error) {
	_, err := f.Writer.Write(bytes.ReplaceAll(p, []byte("`"), nil))
	return len(p), err
}

// completeNode completes [LOGIN@]NODE, the first argument of tsh ssh. It leaves the arguments after it to the
// shell, because they are a command.
func (a *app) completeNode(
	cmd *cobra.Command,
	args []string,
	typed string,
) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || isPath(typed) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.matchingNodes(cmd.Context(), typed, ""), cobra.ShellCompDirectiveNoFileComp
}

// completeLocation completes the node in [LOGIN@]NODE:PATH, an argument of tsh scp. The shell appends no
// space, because the path follows, and offers local files too.
func (a *app) completeLocation(
	cmd *cobra.Command,
	_ []string,
	typed string,
) ([]string, cobra.ShellCompDirective) {
	if isPath(typed) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	const directive = cobra.ShellCompDirectiveDefault | cobra.ShellCompDirectiveNoSpace
	return a.matchingNodes(cmd.Context(), typed, ":"), directive
}

// isPath reports whether a path, local or on a node, has been typed, which the shell completes.
func isPath(typed string) bool { return strings.ContainsAny(typed, ":/") }

// matchingNodes returns the node names that begin as typed, which may be LOGIN@ and the beginning of a name.
// Each has LOGIN@ in front, if it was typed, and suffix at its end.
func (a *app) matchingNodes(ctx context.Context, typed, suffix string) []string {
	login, name, hasLogin := strings.Cut(typed, "@")
	prefix := login + "@"
	if !hasLogin {
		prefix, name = "", typed
	}
	var matching []string
	for _, node := range a.nodeNames(ctx) {
		if strings.HasPrefix(node, name) {
			matching = append(matching, prefix+node+suffix)
		}
	}
	return matching
}

// nodeNames returns the names of the nodes that the user can log in to, for the Tab key. It returns none if
// the user is not logged in or the auth service does not answer within completionTime. It leaves out names
// that are not valid, so that a shell gets no other text of a server.
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
	var names []string
	for _, node := range nodes {
		if len(node.Logins) > 0 && identity.CheckMachineName(node.Name) == nil {
			names = append(names, node.Name)
		}
	}
	return names
}

// completeCluster completes the clusters that have a profile.
func (a *app) completeCluster(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	home, err := a.home()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	clusters, _ := home.Clusters() // no message is shown
	return clusters, cobra.ShellCompDirectiveNoFileComp
}

// completeResource completes the kind and the name of a resource.
func (a *app) completeResource(
	cmd *cobra.Command,
	args []string,
	typed string,
) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		kind, err := resourceKind(args[0])
		if err != nil || len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completeNames(kind)(cmd, nil, typed)
	}
	var out []string
	for _, r := range access.Resources {
		out = append(out, string(r))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeLock completes the kind and the name of what is locked.
func (a *app) completeLock(
	cmd *cobra.Command,
	args []string,
	typed string,
) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return lockKindWords(), cobra.ShellCompDirectiveNoFileComp
	case 1:
		if kind, ok := lockKindOf(args[0]); ok && kind.names != "" {
			return a.completeNames(kind.names)(cmd, nil, typed)
		}
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// shellName is the form of the names of resources that a shell gets. None of its characters has a meaning for
// a shell, and such a name is no flag.
var shellName = ascii.Form{First: ascii.Of("A-Za-z0-9_"), Inner: ascii.Of("A-Za-z0-9@%/_.+-"), Max: 253}

// completeNames returns a function that completes the names of resources of a kind: those of the first page.
// Users are known by connector/subject, which is the name of the resource, and by the name that people read.
// There are none if the user is not logged in or may not read them, or if the auth service does not answer
// within completionTime.
func (a *app) completeNames(kind access.Resource) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp
		prof, err := a.currentLogin()
		if err != nil {
			return nil, directive
		}
		client := a.auth(prof)
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		page, err := authrpc.Call(ctx, client, authrpc.GetResources, authrpc.GetResourcesRequest{Kind: kind})
		if err != nil {
			return nil, directive
		}
		var names []string
		add := func(name string) {
			if shellName.Matches(name) && strings.HasPrefix(name, typed) {
				names = append(names, name)
			}
		}
		for _, resource := range page.Resources {
			add(resource.Metadata.Name)
			if kind == access.Users {
				var status struct{ Name string }
				decodeKnown(resource.Status, &status)
				add(status.Name)
			}
		}
		return names, directive
	}
}
