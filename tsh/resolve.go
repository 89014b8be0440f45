package tsh

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// nodeName returns the typed name in canonical form: lower case, without a final dot. It refuses text that
// cannot be the name of a node.
func nodeName(typed string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(typed), ".")
	if err := identity.CheckMachineName(name); err != nil {
		msg := fmt.Sprintf("%q is not a node name", typed)
		return "", fault.Wrap(err, fault.Invalid, "", msg, "see: tsh ls")
	}
	return name, nil
}

// resolve asks the auth service which node a first label or a machine's id means. It is an error if there is
// no such node, or several, or if the node is offline.
func (a *app) resolve(ctx context.Context, p *profile.Profile, name string) (authrpc.NodeInfo, error) {
	name = strings.TrimSuffix(name, "."+p.Cluster)
	c := a.auth(p)
	defer c.Close()
	req := authrpc.ListNodesRequest{Name: name, Limit: maxAmbiguous + 1}
	resp, err := authrpc.Call(ctx, c, authrpc.ListNodes, req)
	if err != nil {
		return authrpc.NodeInfo{}, err
	}
	return pickNode(resp.Nodes, name, p.Cluster, a.Now())
}

// resolveAfterRefusal finds the whole name of a node after the proxy has refused name. If there is none, it
// returns an error: the more specific of resolve, such as the possible names or since when the node is
// offline, else the refusal.
func (a *app) resolveAfterRefusal(
	ctx context.Context,
	p *profile.Profile,
	name string,
	refused error,
) (string, error) {
	var refusal *refusedError
	if !errors.As(refused, &refusal) {
		return "", refused
	}
	if k := refusal.fault.Kind; k != fault.NotFound && k != fault.Unavailable {
		return "", refused
	}
	n, err := a.resolve(ctx, p, name)
	switch {
	case n.Name != "" && err != nil, fault.Is(err, fault.NotFound), fault.Is(err, fault.Conflict):
		return "", err
	case err != nil || n.Name == name || n.Name+"."+p.Cluster == name:
		return "", refused
	}
	return n.Name, nil
}

// maxAmbiguous bounds how many names an error lists.
const maxAmbiguous = 20

// pickNode chooses the node that name means. A whole name goes before the first label of other nodes. If the
// node is offline, it returns the node and an error.
func pickNode(nodes []authrpc.NodeInfo, name, cluster string, now time.Time) (authrpc.NodeInfo, error) {
	for _, n := range nodes {
		if n.Name == name || n.Name+"."+cluster == name {
			nodes = []authrpc.NodeInfo{n}
			break
		}
	}
	switch {
	case len(nodes) == 0:
		msg := fmt.Sprintf("there is no node %s that you may reach", name)
		return authrpc.NodeInfo{}, fault.New(fault.NotFound, "", msg, "see: tsh ls")
	case len(nodes) > 1:
		return authrpc.NodeInfo{}, ambiguous(nodes, name)
	case identity.CheckMachineName(nodes[0].Name) != nil:
		msg := "the auth service sent a node name that is not valid"
		return authrpc.NodeInfo{}, fault.New(fault.Invalid, "", msg, "show this message to an administrator")
	case !nodes[0].Online:
		return nodes[0], offline(nodes[0], now)
	}
	return nodes[0], nil
}

// ambiguous is the error of a first label that several nodes have.
func ambiguous(nodes []authrpc.NodeInfo, name string) error {
	var names []string
	for i, n := range nodes {
		if i == maxAmbiguous {
			names = append(names, "…")
			break
		}
		names = append(names, terminal.Clean(n.Name))
	}
	msg := fmt.Sprintf("node name %s is ambiguous: %s", name, strings.Join(names, ", "))
	return fault.New(fault.Conflict, "", msg, "use the whole name, for example "+names[0])
}

// offline is the error of a node that has no tunnel now.
func offline(n authrpc.NodeInfo, now time.Time) error {
	seen := "never seen"
	if !n.LastSeen.IsZero() {
		seen = "last seen " + ago(now.Sub(n.LastSeen)) + " ago"
	}
	msg := fmt.Sprintf("node %s is offline, %s", n.Name, seen)
	hint := "check that the machine and its threshold-node service run, then try again"
	return fault.New(fault.Unavailable, "", msg, hint)
}

// ago is a duration in its largest unit: 5s, 3m, 2h, 4d.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
