package attachments

import (
	"context"
	"fmt"
	"strings"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	defaultPage     = 1000
	maxLabelFilters = 32 // labels one listing may select by
)

// List pages through the nodes that the person may know of, by name. A name selects by whole name,
// name.cluster, id, or first label, which several nodes may share.
func (r *Registry) List(
	ctx context.Context,
	who identity.Identity,
	q authrpc.ListNodesRequest,
) (authrpc.ListNodesResponse, error) {
	if len(q.Labels) > maxLabelFilters {
		return authrpc.ListNodesResponse{}, fault.New(
			fault.Invalid,
			"nodes.List",
			fmt.Sprintf("%d labels to select by, more than %d", len(q.Labels), maxLabelFilters),
			"select by fewer labels",
		)
	}
	policy, err := r.cfg.State.Policy(ctx)
	if err != nil {
		return authrpc.ListNodesResponse{}, err
	}
	if q.Limit <= 0 || q.Limit > defaultPage {
		q.Limit = defaultPage
	}
	if q.Name != "" {
		return r.listNamed(ctx, policy, who, q)
	}
	var out authrpc.ListNodesResponse
	for p := (state.Page{After: q.After}); ; {
		got, err := r.cfg.State.ListMachines(ctx, identity.Node, p)
		if err != nil {
			return out, err
		}
		for _, m := range got.Items {
			if err := r.appendVisible(ctx, &out, policy, who, q, m.Value); err != nil {
				return out, err
			}
			if len(out.Nodes) == q.Limit {
				out.Next = m.Value.Name
				return out, nil
			}
		}
		if got.Next == "" {
			return out, nil
		}
		p.After = got.Next
	}
}

func (r *Registry) listNamed(
	ctx context.Context,
	policy access.Policy,
	who identity.Identity,
	q authrpc.ListNodesRequest,
) (out authrpc.ListNodesResponse, err error) {
	m, err := r.find(ctx, q.Name)
	if err == nil {
		return out, r.appendVisible(ctx, &out, policy, who, q, m)
	}
	if !fault.Is(err, fault.NotFound) || strings.Contains(q.Name, ".") ||
		identity.CheckMachineName(q.Name) != nil {
		return out, ignoreMissing(err)
	}
	several, err := r.cfg.State.NodesByShortName(ctx, q.Name)
	for _, m := range several {
		if err == nil {
			err = r.appendVisible(ctx, &out, policy, who, q, m)
		}
	}
	return out, err
}

func ignoreMissing(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// appendVisible appends the node to the page if the person may know of it and it is selected.
func (r *Registry) appendVisible(
	ctx context.Context,
	out *authrpc.ListNodesResponse,
	policy access.Policy,
	who identity.Identity,
	q authrpc.ListNodesRequest,
	m state.Machine,
) error {
	n, now := access.Node{ID: m.ID, Name: m.Name, Labels: m.Labels}, r.cfg.Now()
	if !matchesLabels(q.Labels, n) || !visible(policy, who, n, now) {
		return nil
	}
	info, err := r.describe(ctx, m)
	if err != nil {
		return err
	}
	info.Logins = policy.LoginsAt(who, n, now)
	out.Nodes = append(out.Nodes, info)
	return nil
}

// matchesLabels reports whether every label matches. The label "name" is the node's name.
func matchesLabels(want map[string]string, n access.Node) bool {
	for key, pattern := range want {
		value, has := n.Labels[key]
		if key == "name" {
			value, has = n.Name, true
		}
		if !has || !access.Glob(pattern, value) {
			return false
		}
	}
	return true
}

func trimCluster(name, cluster string) string { return strings.TrimSuffix(name, "."+cluster) }
