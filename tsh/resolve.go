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
		return "", nodeNameInvalid.Wrap(err, "", fault.Args{"node": typed})
	}
	return name, nil
}

// resolve asks the auth service which node the user means by name: a whole name, a first label or a machine
// id. It returns that node if it is online. See pickNode for its faults; those of the call are returned too.
func (a *app) resolve(ctx context.Context, prof *profile.Profile, name string) (authrpc.NodeInfo, error) {
	name = strings.TrimSuffix(name, "."+prof.Cluster)
	client := a.auth(prof)
	defer client.Close()
	req := authrpc.ListNodesRequest{Name: name, Limit: maxAmbiguous + 1}
	resp, err := authrpc.Call(ctx, client, authrpc.ListNodes, req)
	if err != nil {
		return authrpc.NodeInfo{}, err
	}
	return pickNode(resp.Nodes, name, prof.Cluster, a.Now())
}

// resolveAfterRefusal finds the whole name of a node after a connection to name has failed with the error
// refused. If the proxy refused it because it knows no such node or cannot reach it, resolveAfterRefusal asks
// the auth service. It returns a whole name other than name, with which the caller may try again. Otherwise
// it returns an error: that of resolve if it says more than refused, such as the possible names or since when
// the node is offline, else refused itself.
func (a *app) resolveAfterRefusal(
	ctx context.Context,
	prof *profile.Profile,
	name string,
	refused error,
) (string, error) {
	var refusal *refusedError
	if !errors.As(refused, &refusal) {
		return "", refused
	}
	if kind := refusal.fault.Kind; kind != fault.NotFound && kind != fault.Unavailable {
		return "", refused
	}
	node, err := a.resolve(ctx, prof, name)
	switch {
	case errors.Is(err, errOffline), fault.Is(err, fault.NotFound), fault.Is(err, fault.Conflict):
		return "", err
	case err != nil: // the auth service did not answer
		return "", refused
	case isWholeName(node, name, prof.Cluster): // a second try would be the same
		return "", refused
	}
	return node.Name, nil
}

// maxAmbiguous bounds how many names an error lists.
const maxAmbiguous = 20

// isWholeName reports whether name is the whole name of the node, with or without the cluster's domain.
func isWholeName(node authrpc.NodeInfo, name, cluster string) bool {
	return node.Name == name || node.Name+"."+cluster == name
}

// pickNode returns the one of nodes that the user means by name. Every one of nodes matches name: by its
// whole name, its first label or its id. A match by the whole name takes precedence. pickNode returns a
// NotFound fault if nodes is empty, a Conflict fault that lists the names if several match, an Invalid fault
// if the auth service sent a node name that is not valid, and an Unavailable fault that wraps errOffline if
// the node is offline.
func pickNode(nodes []authrpc.NodeInfo, name, cluster string, now time.Time) (authrpc.NodeInfo, error) {
	for _, node := range nodes {
		if isWholeName(node, name, cluster) {
			nodes = []authrpc.NodeInfo{node}
			break
		}
	}
	switch {
	case len(nodes) == 0:
		return authrpc.NodeInfo{}, nodeUnknown.New("", fault.Args{"node": name})
	case len(nodes) > 1:
		return authrpc.NodeInfo{}, ambiguousFault(nodes, name)
	case identity.CheckMachineName(nodes[0].Name) != nil:
		return authrpc.NodeInfo{}, authNodeNameInvalid.New("")
	case !nodes[0].Online:
		return authrpc.NodeInfo{}, offlineFault(nodes[0], now)
	}
	return nodes[0], nil
}

// ambiguousFault is the error of a first label that several nodes have.
func ambiguousFault(nodes []authrpc.NodeInfo, name string) error {
	var names []string
	for i, node := range nodes {
		if i == maxAmbiguous {
			names = append(names, "…")
			break
		}
		names = append(names, terminal.Clean(node.Name))
	}
	return nodeNameAmbiguous.New("", fault.Args{
		"node":    name,
		"names":   strings.Join(names, ", "),
		"example": names[0],
	})
}

// errOffline is the cause in offlineFault. By it resolveAfterRefusal knows that the auth service answered.
var errOffline = errors.New("the node has no tunnel to a proxy")

// offlineFault is the error of a node that has no tunnel now.
func offlineFault(node authrpc.NodeInfo, now time.Time) error {
	seen := "never seen"
	if !node.LastSeen.IsZero() {
		seen = "last seen " + ago(now.Sub(node.LastSeen)) + " ago"
	}
	return nodeOffline.Wrap(errOffline, "", fault.Args{"node": node.Name, "seen": seen})
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
