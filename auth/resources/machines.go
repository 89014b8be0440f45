package resources

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// machineKind are the machines of a cluster: nodes, and the proxies they are reached by. Their labels are in
// the document's metadata.
type machineKind struct{ *Service }

// machineSpec has no fields: what may be changed of a node is its labels.
type machineSpec struct{}

type machineStatus struct {
	ID      identity.MachineID `json:"id"`
	Kind    identity.Kind      `json:"kind"`
	Names   []string           `json:"names,omitempty"`
	Created time.Time          `json:"created"`
	Renewed time.Time          `json:"renewed"`
}

func (k machineKind) document(m state.Stored[state.Machine]) (authrpc.Resource, error) {
	v := m.Value
	r, err := document(
		"node",
		v.Name,
		m.Revision,
		machineSpec{},
		machineStatus{v.ID, v.Kind, v.Names, v.Created, v.Renewed},
	)
	r.Metadata.Labels = v.Labels
	return r, err
}

func (k machineKind) find(ctx context.Context, name string) (state.Stored[state.Machine], error) {
	if identity.CheckMachineID(identity.MachineID(name)) == nil {
		return k.cfg.State.Machine(ctx, identity.MachineID(name))
	}
	return k.cfg.State.MachineByName(ctx, name)
}

func (k machineKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.find(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k machineKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListMachines(ctx, "", p)
	return documents(got, err, k.document)
}

func (k machineKind) apply(
	ctx context.Context,
	by caller,
	r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if err := readSpec(r, &machineSpec{}); err != nil {
		return out, err
	}
	old, err := k.find(ctx, r.Metadata.Name)
	if fault.Is(err, fault.NotFound) {
		return out, fault.Wrap(
			err,
			fault.NotFound,
			"resources.Apply",
			fmt.Sprintf("there is no node %.80q: a machine comes by joining", r.Metadata.Name),
			"make a token for it: tsh token create",
		)
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
	if _, err := k.cfg.State.Machines.ChangeMachine(ctx, old, next, by.event(events.ResourceApplied, access.Machines, next.Name)); err != nil {
		return out, err
	}
	out.Note = "takes effect on the node when its certificates renew"
	out.Resource, err = k.get(ctx, string(next.ID))
	return out, err
}

func nodeOf(m state.Machine) access.Node {
	return access.Node{ID: m.ID, Name: m.Name, Labels: m.Labels}
}

func (k machineKind) remove(ctx context.Context, by caller, name string) error {
	m, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	return k.cfg.State.Machines.RemoveMachine(
		ctx,
		m,
		by.now,
		by.event(events.ResourceRemoved, access.Machines, m.Value.Name),
	)
}
