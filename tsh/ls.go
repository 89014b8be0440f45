package tsh

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// lsCmd is "tsh ls". The auth service selects the nodes by labels and by what the user may see.
func (a *app) lsCmd() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [LABEL=VALUE…]",
		Short:   "List the nodes that you may see",
		GroupID: everyday,
		Example: `  tsh ls
  tsh ls env=prod 'team=web*'     # every label must match; * and ? are wildcards
  tsh ls -q name='web-*'          # print names only`,
	}
	format := formatFlag(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only, one on each line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		labels, err := parseLabels(args)
		if err != nil {
			return err
		}
		prof, err := a.currentLogin()
		if err != nil {
			return err
		}
		nodes, err := a.nodes(cmd.Context(), prof, labels)
		if err != nil {
			return err
		}
		return a.write(*format, nodes, func(w io.Writer) error { return a.listNodes(w, nodes, quiet) })
	}
	return cmd
}

// parseLabels reads LABEL=VALUE arguments into a map by label. It does not look into values, which may
// contain wildcards: the auth service matches them. It returns an Invalid fault for other text, for an empty
// value and for a label that is given twice.
func parseLabels(args []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok || identity.CheckWord("label", key) != nil || value == "" {
			return nil, filterMalformed.New("", fault.Args{"filter": arg})
		}
		if _, twice := labels[key]; twice {
			return nil, filterRepeated.New("", fault.Args{"label": key})
		}
		labels[key] = value
	}
	return labels, nil
}

// nodes fetches all pages of the list of the nodes that the user may see and that have all the labels; their
// values may contain wildcards. Without labels it returns every node that the user may see.
func (a *app) nodes(
	ctx context.Context,
	prof *profile.Profile,
	labels map[string]string,
) ([]authrpc.NodeInfo, error) {
	client := a.auth(prof)
	defer client.Close()
	all := []authrpc.NodeInfo{}
	for after := ""; ; {
		req := authrpc.ListNodesRequest{Labels: labels, After: after}
		page, err := authrpc.Call(ctx, client, authrpc.ListNodes, req)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Nodes...)
		if page.Next == "" || page.Next == after { // a repeated Next would loop forever
			return all, nil
		}
		after = page.Next
	}
}

// listNodes writes a table of the nodes, or with quiet only their names, one a line. If there are no nodes,
// it writes nothing to w, so that scripts read an empty list, and without quiet says so on standard error.
func (a *app) listNodes(w io.Writer, nodes []authrpc.NodeInfo, quiet bool) error {
	if quiet {
		for _, node := range nodes {
			if _, err := fmt.Fprintln(w, terminal.Clean(node.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(nodes) == 0 {
		_, err := fmt.Fprintln(a.Stderr, "No node that you may see matches.")
		return err
	}
	var rows [][]string
	for _, node := range nodes {
		status := nodeStatus(node, a.Now())
		rows = append(rows, []string{node.Name, status, labelText(node.Labels), join(node.Logins)})
	}
	return output.WriteTable(w, []string{"NAME", "STATUS", "LABELS", "LOGINS"}, rows)
}

// nodeStatus is "online", "offline", or "offline" and for how long.
func nodeStatus(node authrpc.NodeInfo, now time.Time) string {
	switch {
	case node.Online:
		return "online"
	case node.LastSeen.IsZero():
		return "offline"
	}
	return "offline " + ago(now.Sub(node.LastSeen))
}

// labelText is "key=value,…", sorted, so that equal labels look equal.
func labelText[M ~map[string]string](labels M) string {
	var pairs []string
	for key, value := range labels {
		pairs = append(pairs, key+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
