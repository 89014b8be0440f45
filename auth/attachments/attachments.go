// Package nodes answers: which nodes are there, and where are they attached?
//
// Nodes are on record from the day they join. Where one is attached is the word of the node itself, signed,
// which the proxy it is attached to hands on; auth takes no proxy's word for it. Attachments go with the
// lease of the proxy, which each report renews, so a report that changes nothing writes nothing.
package attachments

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// leaseDuration is how long attachments outlive the last word of their proxy.
	leaseDuration = 30 * time.Second
	// reportInterval is when a proxy should report again even if nothing changed: twice within a lease may be
	// lost.
	reportInterval = 10 * time.Second
	// maxReport bounds the nodes of one report.
	maxReport = 20000
)

// Config says what the registry needs; all of it is required.
type Config struct {
	State   *state.State
	Cluster string
	Now     func() time.Time
	Log     *slog.Logger
}

// Registry knows nodes and attachments. It is safe for concurrent use.
type Registry struct{ cfg Config }

// New makes a registry.
func New(cfg Config) *Registry { return &Registry{cfg} }

// Report takes a proxy's word on which nodes are attached to it: all of them, each with the node's own signed
// word. What a node did not sign is left out and logged; it does not spoil the rest.
func (r *Registry) Report(
	ctx context.Context,
	proxy identity.Identity,
	req authrpc.ReportNodesRequest,
) (authrpc.ReportNodesResponse, error) {
	if len(req.Attached) > maxReport {
		return authrpc.ReportNodesResponse{}, fault.New(
			fault.Invalid,
			"nodes.Report",
			fmt.Sprintf("%d nodes in one report, more than %d", len(req.Attached), maxReport),
			"spread the nodes over more proxies",
		)
	}
	if _, err := r.cfg.State.Attachments.KeepProxyLease(ctx, proxy.ID, leaseDuration); err != nil {
		return authrpc.ReportNodesResponse{}, err
	}
	before, err := r.cfg.State.AttachmentsByProxy(ctx, proxy.ID)
	if err != nil {
		return authrpc.ReportNodesResponse{}, err
	}
	var came []state.Attachment
	for _, a := range req.Attached {
		old, known := before[a.Node]
		delete(before, a.Node)
		if known && unchanged(old, a) {
			continue
		}
		now, err := r.verifyAttachment(ctx, proxy, a, old)
		if err != nil {
			r.cfg.Log.Warn(
				"an attachment was refused",
				"proxy",
				proxy.Name,
				"node",
				fmt.Sprintf("%.40q", a.Node),
				"err",
				err,
			)
			continue
		}
		came = append(came, now)
	}
	left := make([]state.Attachment, 0, len(before))
	for _, a := range before {
		left = append(left, a)
	}
	if err := r.cfg.State.Attachments.ChangeAttachments(ctx, proxy.ID, came, left, r.cfg.Now()); err != nil {
		return authrpc.ReportNodesResponse{}, err
	}
	return authrpc.ReportNodesResponse{ReportAfter: reportInterval}, nil
}

func unchanged(old state.Attachment, a authrpc.AttachedNode) bool {
	return old.Version == a.Version && bytes.Equal(old.Signed.Payload, a.Attachment.Payload) &&
		bytes.Equal(old.Signed.Sig, a.Attachment.Sig)
}

// maxVersion bounds the text of an agent's release.
const maxVersion = 64

// verifyAttachment checks that the node itself says that it is attached to this very proxy, and says it anew:
// not before it joined, not in the future, and not before what it said last. How long ago is no matter, since
// a tunnel may last for weeks. A proxy that repeats a node's last word after the node has left gains nothing
// but calls that lead nowhere, which it could have dropped as well.
func (r *Registry) verifyAttachment(
	ctx context.Context,
	proxy identity.Identity,
	a authrpc.AttachedNode,
	old state.Attachment,
) (state.Attachment, error) {
	m, err := r.cfg.State.Machine(ctx, a.Node)
	if err != nil {
		return state.Attachment{}, err
	}
	key, err := x509.ParsePKIXPublicKey(m.Value.X509Key)
	if err != nil {
		return state.Attachment{}, err
	}
	said, err := a.Attachment.Verify(key)
	if err != nil {
		return state.Attachment{}, err
	}
	switch {
	case m.Value.Kind != identity.Node:
		return state.Attachment{}, fmt.Errorf("%s is a %s", m.Value.Name, m.Value.Kind)
	case said.Node != a.Node:
		return state.Attachment{}, fmt.Errorf("it is signed for node %.40q", said.Node)
	case said.Proxy != proxy.Name:
		return state.Attachment{}, fmt.Errorf("it is signed for proxy %.80q", said.Proxy)
	case said.Time.After(r.cfg.Now().Add(identity.Skew)),
		said.Time.Before(m.Value.Created.Add(-identity.Skew)),
		said.Time.Before(old.Since):
		return state.Attachment{}, fmt.Errorf(
			"it is signed at %s, which is not fresh",
			said.Time.UTC().Format(time.RFC3339),
		)
	case a.Version != "" && (len(a.Version) > maxVersion || identity.CheckText("version", a.Version) != nil):
		return state.Attachment{}, fmt.Errorf("its version is no plain text")
	}
	return state.Attachment{
		Node:    a.Node,
		ProxyID: proxy.ID,
		Proxy:   proxy.Name,
		Since:   said.Time.UTC(),
		Version: a.Version,
		Signed:  a.Attachment,
	}, nil
}

// Locate finds a node by its whole name, name.cluster or id, and where it is attached. None is no fault.
func (r *Registry) Locate(ctx context.Context, name string) (authrpc.LocateNodeResponse, error) {
	m, err := r.find(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return authrpc.LocateNodeResponse{}, nil
	}
	if err != nil {
		return authrpc.LocateNodeResponse{}, err
	}
	info, err := r.describe(ctx, m)
	if err != nil {
		return authrpc.LocateNodeResponse{}, err
	}
	return authrpc.LocateNodeResponse{Nodes: []authrpc.NodeInfo{info}}, nil
}

// find returns the one node that has the whole name, or the id.
func (r *Registry) find(ctx context.Context, name string) (state.Machine, error) {
	if identity.CheckMachineName(name) != nil { // ids are names too
		return state.Machine{}, noNode(name)
	}
	for _, n := range []string{name, trimCluster(name, r.cfg.Cluster)} {
		look := r.cfg.State.MachineByName
		if identity.CheckMachineID(identity.MachineID(n)) == nil {
			look = func(ctx context.Context, id string) (state.Stored[state.Machine], error) {
				return r.cfg.State.Machine(ctx, identity.MachineID(id))
			}
		}
		m, err := look(ctx, n)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return state.Machine{}, err
		}
		if err == nil && m.Value.Kind == identity.Node {
			return m.Value, nil
		}
	}
	return state.Machine{}, noNode(name)
}

func noNode(name string) error {
	return fault.New(
		fault.NotFound,
		"nodes",
		fmt.Sprintf("there is no node %.80q", name),
		"see which there are: tsh ls",
	)
}

// describe is a node as listings show it.
func (r *Registry) describe(ctx context.Context, m state.Machine) (authrpc.NodeInfo, error) {
	out := authrpc.NodeInfo{ID: m.ID, Name: m.Name, Labels: m.Labels}
	at, err := r.cfg.State.AttachmentsByNode(ctx, m.ID)
	if err != nil {
		return out, err
	}
	for _, a := range at {
		out.Online, out.Version = true, a.Version
		out.Proxies = append(out.Proxies, a.Proxy)
	}
	if out.Online {
		out.LastSeen = r.cfg.Now().UTC()
		return out, nil
	}
	out.LastSeen, err = r.cfg.State.LastSeen(ctx, m.ID)
	return out, err
}

// Visible reports whether the person may know of the node.
func visible(p access.Policy, who identity.Identity, n access.Node, now time.Time) bool {
	return access.Decide(p, access.Request{Who: who, Node: n, Action: access.List, Now: now}).Allow
}
