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
)

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// nodeName is what a person typed, in the form that names have, and refused where it can be none.
func nodeName(typed string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(typed), ".")
	if err := identity.CheckMachineName(name); err != nil {
		return "", fault.Wrap(err, fault.Invalid, "", fmt.Sprintf("%q is no node name", typed), "see: tsh ls")
	}
	return name, nil
}

// resolve asks auth which node is meant by a name that the proxy does not know as a whole one: a first label,
// or a machine's id. It explains a name that means none, several, or a node that is offline.
func (a *app) resolve(ctx context.Context, p *profile.Profile, name string) (authrpc.NodeInfo, error) {
	name = strings.TrimSuffix(name, "."+p.Cluster)
	c := a.auth(p)
	defer c.Close()
	resp, err := authrpc.Call(
		ctx,
		c,
		authrpc.ListNodes,
		authrpc.ListNodesRequest{Name: name, Limit: maxAmbiguous + 1},
	)
	if err != nil {
		return authrpc.NodeInfo{}, err
	}
	return pick(resp.Nodes, name, p.Cluster, a.Now())
}

// resolveAfterRefusal finds, after the proxy refused a name, the whole name that was meant. Where there is
// none it returns the refusal, or what says more: which names there are, or since when the node is away.
func (a *app) resolveAfterRefusal(
	ctx context.Context,
	p *profile.Profile,
	name string,
	refused error,
) (string, error) {
	var by *refusedError
	if !errors.As(refused, &by) || by.fault.Kind != fault.NotFound && by.fault.Kind != fault.Unavailable {
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

func pick(nodes []authrpc.NodeInfo, name, cluster string, now time.Time) (authrpc.NodeInfo, error) {
	for _, n := range nodes { // a whole name beats the first label of others
		if n.Name == name || n.Name+"."+cluster == name {
			nodes = []authrpc.NodeInfo{n}
			break
		}
	}
	switch {
	case len(nodes) == 0:
		return authrpc.NodeInfo{}, fault.New(
			fault.NotFound,
			"",
			fmt.Sprintf("there is no node %s that you may reach", name),
			"see: tsh ls",
		)
	case len(nodes) > 1:
		return authrpc.NodeInfo{}, ambiguous(nodes, name)
	case identity.CheckMachineName(nodes[0].Name) != nil:
		return authrpc.NodeInfo{}, fault.New(
			fault.Invalid,
			"",
			"auth names a node in a way that no node is named",
			"show this message to an administrator",
		)
	case !nodes[0].Online:
		return nodes[0], offline(nodes[0], now)
	}
	return nodes[0], nil
}

func ambiguous(nodes []authrpc.NodeInfo, name string) error {
	var names []string
	for i, n := range nodes {
		if i == maxAmbiguous {
			names = append(names, "…")
			break
		}
		names = append(names, clean(n.Name))
	}
	return fault.New(
		fault.Conflict,
		"",
		fmt.Sprintf("node name %s is ambiguous: %s", name, strings.Join(names, ", ")),
		"use the whole name, as "+names[0],
	)
}

func offline(n authrpc.NodeInfo, now time.Time) error {
	seen := "never seen"
	if !n.LastSeen.IsZero() {
		seen = "last seen " + ago(now.Sub(n.LastSeen)) + " ago"
	}
	return fault.New(
		fault.Unavailable,
		"",
		fmt.Sprintf("node %s is offline, %s", n.Name, seen),
		"check that the machine and its threshold-node service run; then try again",
	)
}

// ago is a duration as people say it: 5s, 3m, 2h, 4d.
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
