package resources

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

type tokens struct{ *Desk }

// tokenSpec is a join token as it is asked for.
type tokenSpec struct {
	Kind    identity.Kind   `json:"kind" config:"required"`
	TTL     access.Duration `json:"ttl,omitzero"`
	Labels  identity.Labels `json:"labels,omitempty"`  // the machine's, whatever it wishes
	Machine string          `json:"machine,omitempty"` // the name the machine gets; empty: what it wishes
}

func (s tokenSpec) wish() join.Wish {
	return join.Wish{Kind: s.Kind, TTL: time.Duration(s.TTL), Labels: s.Labels, Machine: s.Machine}
}

// Check implements config.Checker.
func (s tokenSpec) Check(report func(path, format string, args ...any)) {
	join.CheckWish(s.wish(), report)
}

type tokenStatus struct {
	State   string          `json:"state"` // ready, used or ended
	By      string          `json:"by"`
	Expires time.Time       `json:"expires"`
	UsedBy  identity.NodeID `json:"used_by,omitempty"`
}

func (k tokens) document(t state.Stored[state.Token]) (authrpc.Resource, error) {
	v := t.Value
	s := tokenStatus{State: "ready", By: v.By, Expires: v.Expires, UsedBy: v.UsedBy}
	switch {
	case !v.Used.IsZero():
		s.State = "used"
	case !k.cfg.Now().Before(v.Expires):
		s.State = "ended"
	}
	return document("token", t.Key, t.Revision, tokenSpec{v.Kind, access.Duration(v.Expires.Sub(v.Created)), v.Labels, v.Machine}, s)
}

func (k tokens) get(ctx context.Context, name string) (authrpc.Resource, error) {
	t, err := k.cfg.State.Token(ctx, name)
	if err != nil {
		return authrpc.Resource{}, err
	}
	return k.document(t)
}

func (k tokens) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListTokens(ctx, p)
	return documents(got, err, k.document)
}

// apply makes a token; a token is never changed.
func (k tokens) apply(ctx context.Context, by caller, r authrpc.Resource) (out authrpc.ApplyResourceResponse, err error) {
	if r.Metadata.Name != "" {
		if err := identity.CheckWord("token", r.Metadata.Name); err != nil {
			return out, invalidName("token", err)
		}
	}
	var spec tokenSpec
	if err := readSpec(r, &spec); err != nil {
		return out, err
	}
	w := spec.wish()
	w.Name, w.By = r.Metadata.Name, by.who
	secret, kept, err := k.cfg.Door.Create(ctx, w)
	if err != nil {
		return out, err
	}
	out.Created, out.Secret = true, secret.String()
	out.Note = "this token is shown once; it is good for one machine until " + kept.Value.Expires.Format(time.RFC3339)
	out.Resource, err = k.document(kept)
	return out, err
}

func (k tokens) remove(ctx context.Context, by caller, name string) error {
	t, err := k.cfg.State.Token(ctx, name)
	if err != nil {
		return err
	}
	return k.cfg.State.RemoveToken(ctx, t, by.event(events.ResourceRemoved, access.Tokens, name))
}

// nodes are the machines of a cluster: nodes, and the proxies they are reached by. Their labels are in the document's metadata.
type nodes struct{ *Desk }

// nodeSpec has no fields: what may be changed of a node is its labels.
type nodeSpec struct{}

type nodeStatus struct {
	ID      identity.NodeID `json:"id"`
	Kind    identity.Kind   `json:"kind"`
	Names   []string        `json:"names,omitempty"`
	Created time.Time       `json:"created"`
	Renewed time.Time       `json:"renewed"`
}

func (k nodes) document(m state.Stored[state.Machine]) (authrpc.Resource, error) {
	v := m.Value
	r, err := document("node", v.Name, m.Revision, nodeSpec{}, nodeStatus{v.ID, v.Kind, v.Names, v.Created, v.Renewed})
	r.Metadata.Labels = v.Labels
	return r, err
}

func (k nodes) find(ctx context.Context, name string) (state.Stored[state.Machine], error) {
	if identity.CheckNodeID(identity.NodeID(name)) == nil {
		return k.cfg.State.Machine(ctx, identity.NodeID(name))
	}
	return k.cfg.State.MachineByName(ctx, name)
}

func (k nodes) get(ctx context.Context, name string) (authrpc.Resource, error) {
	m, err := k.find(ctx, name)
	if err != nil {
		return authrpc.Resource{}, err
	}
	return k.document(m)
}

func (k nodes) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListMachines(ctx, "", p)
	return documents(got, err, k.document)
}

func (k nodes) apply(ctx context.Context, by caller, r authrpc.Resource) (out authrpc.ApplyResourceResponse, err error) {
	if err := readSpec(r, &nodeSpec{}); err != nil {
		return out, err
	}
	old, err := k.find(ctx, r.Metadata.Name)
	if fault.Is(err, fault.NotFound) {
		return out, fault.Wrap(err, fault.NotFound, "resources.Apply", fmt.Sprintf("there is no node %.80q: a machine comes by joining", r.Metadata.Name),
			"make a token for it: tsh token create")
	}
	if err != nil {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	next := old.Value
	next.Labels = r.Metadata.Labels
	if err := join.CheckLabels(next.Labels); err != nil {
		return out, err
	}
	if err := by.mayRelabel(nodeOf(old.Value), nodeOf(next)); err != nil {
		return out, err
	}
	if _, err := k.cfg.State.ChangeMachine(ctx, old, next, by.event(events.ResourceApplied, access.Nodes, next.Name)); err != nil {
		return out, err
	}
	out.Note = "takes effect on the node when its certificates renew"
	out.Resource, err = k.get(ctx, string(next.ID))
	return out, err
}

func nodeOf(m state.Machine) access.Node {
	return access.Node{ID: m.ID, Name: m.Name, Labels: m.Labels}
}

func (k nodes) remove(ctx context.Context, by caller, name string) error {
	m, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	return k.cfg.State.RemoveMachine(ctx, m, by.now, by.event(events.ResourceRemoved, access.Nodes, m.Value.Name))
}

// happenings are the audit log, as documents. They are named by their number.
type happenings struct{ *Desk }

func (k happenings) document(e state.NumberedEvent) (authrpc.Resource, error) {
	return document("event", strconv.FormatUint(e.Number, 10), 0, e.Event, nil)
}

func (k happenings) get(ctx context.Context, name string) (authrpc.Resource, error) {
	n, err := strconv.ParseUint(name, 10, 64)
	missing := fault.New(fault.NotFound, "resources.Get", fmt.Sprintf("there is no event %.40q", name), "events are named by number: tsh get events")
	if err != nil || n == 0 {
		return authrpc.Resource{}, missing
	}
	got, err := k.cfg.Log.Read(ctx, n-1, 1)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if len(got) == 0 {
		return authrpc.Resource{}, missing
	}
	return k.document(got[0])
}

func (k happenings) list(ctx context.Context, p state.Page) (out []authrpc.Resource, next string, err error) {
	after := uint64(0)
	if p.After != "" {
		if after, err = strconv.ParseUint(p.After, 10, 64); err != nil {
			return nil, "", fault.Wrap(err, fault.Invalid, "resources.Get", "a page of events begins after a number", "leave out after, or use what the last page said")
		}
	}
	got, err := k.cfg.Log.Read(ctx, after, p.Limit)
	size := 0
	for _, e := range got {
		r, err := k.document(e)
		if err != nil {
			return nil, "", err
		}
		if size += len(r.Spec); size > maxPageBytes && len(out) > 0 {
			break
		}
		out, after = append(out, r), e.Number
	}
	// A page may be short because events are large, so only the log itself knows whether there are more.
	more, merr := k.cfg.Log.Read(ctx, after, 1)
	if len(more) > 0 {
		next = strconv.FormatUint(after, 10)
	}
	return out, next, errors.Join(err, merr)
}

// maxPageBytes bounds a page of events, which machines write and may make large, under authrpc.MaxAnswerBytes.
const maxPageBytes = 2 << 20

func (k happenings) apply(context.Context, caller, authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return authrpc.ApplyResourceResponse{}, appendOnly()
}

func (k happenings) remove(context.Context, caller, string) error { return appendOnly() }

func appendOnly() error {
	return fault.New(fault.Denied, "resources", "events can only be read: the audit log is never changed", "use: tsh get events")
}
