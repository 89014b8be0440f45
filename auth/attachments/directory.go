package attachments

import (
	"context"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	maxPage         = 1000 // nodes on one page, and the default
	maxLabelFilters = 32   // labels by which one listing may select
)

// Machines finds and lists machines. state.Reader is one.
type Machines interface {
	Machine(ctx context.Context, id identity.MachineID) (state.Stored[state.Machine], error)
	MachineByName(ctx context.Context, name string) (state.Stored[state.Machine], error)
	NodesByShortName(ctx context.Context, label string) ([]state.Machine, error)
	ListMachines(ctx context.Context, kind identity.Kind, p state.Page) (state.Listing[state.Machine], error)
}

// Attachments says to which proxies a node is attached. state.Reader is one.
type Attachments interface {
	AttachmentsByNode(ctx context.Context, node identity.MachineID) ([]state.Attachment, error)
	// LastSeen is when the node was last known to be attached; zero if it never was.
	LastSeen(ctx context.Context, node identity.MachineID) (time.Time, error)
}

// Policies gives the roles in force. state.Reader is one.
type Policies interface {
	Policy(ctx context.Context) (access.Policy, error)
}

// DirectoryConfig says what a directory needs; all of it is required.
type DirectoryConfig struct {
	Machines    Machines
	Attachments Attachments
	Policies    Policies
	Cluster     string
	Now         func() time.Time
}

// Directory finds and lists nodes. It is safe for concurrent use.
type Directory struct{ cfg DirectoryConfig }

// NewDirectory makes a directory.
func NewDirectory(cfg DirectoryConfig) *Directory { return &Directory{cfg} }

// Locate finds a node by its whole name, name.CLUSTER or id, and returns the proxies to which it is attached.
// If there is no such node, the response is empty and there is no error. It asks no role: proxies call it,
// which may locate every node.
func (d *Directory) Locate(ctx context.Context, name string) (authrpc.LocateNodeResponse, error) {
	node, err := d.find(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return authrpc.LocateNodeResponse{}, nil
	}
	if err != nil {
		return authrpc.LocateNodeResponse{}, err
	}
	policy, err := d.cfg.Policies.Policy(ctx)
	if err != nil {
		return authrpc.LocateNodeResponse{}, err
	}
	info, err := d.describe(ctx, policy.Locks, node)
	if err != nil {
		return authrpc.LocateNodeResponse{}, err
	}
	return authrpc.LocateNodeResponse{Nodes: []authrpc.NodeInfo{info}}, nil
}

// List returns the nodes that the user may see, in order of their names. With req.Name it returns all matches
// at once: the node with that whole name, name.CLUSTER or id, or else every node with that first label.
// Without req.Name it returns one page of up to req.Limit nodes behind req.After; a limit of zero or above
// maxPage means maxPage. Nodes that the user may not see are left out, so List tells nobody that they exist.
func (d *Directory) List(
	ctx context.Context,
	who authrpc.Caller,
	req authrpc.ListNodesRequest,
) (authrpc.ListNodesResponse, error) {
	if len(req.Labels) > maxLabelFilters {
		return authrpc.ListNodesResponse{},
			filtersTooMany.New("attachments.List", fault.Args{
				"count": len(req.Labels),
				"most":  maxLabelFilters,
			})
	}
	policy, err := d.cfg.Policies.Policy(ctx)
	if err != nil {
		return authrpc.ListNodesResponse{}, err
	}
	asked := access.Request{Who: who.Identity, Serial: who.Serial, Proxy: who.ProxyID, Now: d.cfg.Now()}
	list := listing{dir: d, policy: policy, asked: asked, labels: req.Labels}
	if req.Name != "" {
		err := list.addNamed(ctx, req.Name)
		return list.out, err
	}
	if req.Limit <= 0 || req.Limit > maxPage {
		req.Limit = maxPage
	}
	err = list.addPage(ctx, req.After, req.Limit)
	return list.out, err
}

// listing is one call of List.
type listing struct {
	dir    *Directory
	policy access.Policy
	asked  access.Request            // who asks; the nodes are the targets
	labels map[string]string         // the user selects by them; see matchesLabels
	out    authrpc.ListNodesResponse // what was added so far
}

// addPage adds up to limit visible nodes behind the name after. It reads further pages from the store until
// there are that many, because any number of a page's nodes may be invisible. out.Next is the last added name
// if there may be more nodes, else "".
func (l *listing) addPage(ctx context.Context, after string, limit int) error {
	for page := (state.Page{After: after}); ; {
		got, err := l.dir.cfg.Machines.ListMachines(ctx, identity.Node, page)
		if err != nil {
			return err
		}
		for _, node := range got.Items {
			if err := l.add(ctx, node.Value); err != nil {
				return err
			}
			if len(l.out.Nodes) == limit {
				l.out.Next = node.Value.Name
				return nil
			}
		}
		if got.Next == "" {
			return nil
		}
		page.After = got.Next
	}
}

// addNamed adds the node with the whole name, name.CLUSTER or id. If there is none and the name has no dot,
// it adds all nodes whose first label is the name. It adds nothing, and returns no error, if none matches.
func (l *listing) addNamed(ctx context.Context, name string) error {
	node, err := l.dir.find(ctx, name)
	if err == nil {
		return l.add(ctx, node)
	}
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	if strings.Contains(name, ".") || identity.CheckMachineName(name) != nil {
		return nil // it cannot be a first label
	}
	nodes, err := l.dir.cfg.Machines.NodesByShortName(ctx, name)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if err := l.add(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// add adds the node, with the logins that the user has there, if the user may see it and it has the labels.
// Otherwise it does nothing.
func (l *listing) add(ctx context.Context, m state.Machine) error {
	node := access.Node{ID: m.ID, Name: m.Name, Labels: m.Labels}
	visible := l.asked
	visible.Target, visible.Action = access.ToNode(node), access.List
	if !matchesLabels(l.labels, node) || !l.policy.Decide(visible).Allow {
		return nil
	}
	info, err := l.dir.describe(ctx, l.policy.Locks, m)
	if err != nil {
		return err
	}
	info.Logins = access.LoginsAt(l.policy, visible)
	l.out.Nodes = append(l.out.Nodes, info)
	return nil
}

// matchesLabels reports whether the node has every wanted label, with a value that the glob pattern in want
// matches. The label "name" stands for the node's name, whatever label of that name the node has.
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

// find returns the one node that has the whole name, name.CLUSTER or id. It returns fault NotFound if there
// is none, also for a machine of another kind.
func (d *Directory) find(ctx context.Context, name string) (state.Machine, error) {
	if identity.CheckMachineName(name) != nil { // an id passes this check, too
		return state.Machine{}, noNodeFault(name)
	}
	for _, candidate := range []string{name, strings.TrimSuffix(name, "."+d.cfg.Cluster)} {
		var found state.Stored[state.Machine]
		var err error
		if id := identity.MachineID(candidate); identity.CheckMachineID(id) == nil {
			found, err = d.cfg.Machines.Machine(ctx, id)
		} else {
			found, err = d.cfg.Machines.MachineByName(ctx, candidate)
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return state.Machine{}, err
		}
		if err == nil && found.Value.Kind == identity.Node {
			return found.Value, nil
		}
	}
	return state.Machine{}, noNodeFault(name)
}

func noNodeFault(name string) error {
	return nodeNotListed.New("attachments", fault.Args{"node": name})
}

// describe returns a node as listings show it, without logins. An attached node was last seen now; for any
// other node LastSeen is when it was last attached, or zero. A node that is locked is not attached, and no
// node is to a proxy that is locked: nobody is connected by it.
func (d *Directory) describe(
	ctx context.Context, locks access.Locks, m state.Machine,
) (authrpc.NodeInfo, error) {
	out, now := authrpc.NodeInfo{ID: m.ID, Name: m.Name, Labels: m.Labels}, d.cfg.Now()
	attached, err := d.cfg.Attachments.AttachmentsByNode(ctx, m.ID)
	if err != nil {
		return out, err
	}
	_, locked := locks.MachineDenied(m.ID, now)
	for _, at := range attached {
		if _, proxyLocked := locks.MachineDenied(at.ProxyID, now); locked || proxyLocked {
			continue
		}
		out.Online, out.Version = true, at.Version
		out.Proxies = append(out.Proxies, at.Proxy)
	}
	if out.Online {
		out.LastSeen = now.UTC()
		return out, nil
	}
	out.LastSeen, err = d.cfg.Attachments.LastSeen(ctx, m.ID)
	return out, err
}
