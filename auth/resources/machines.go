package resources

import (
	"context"
	"maps"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// machineKind reads, relabels and removes the nodes or the proxies of a cluster. Their labels are in the
// document's metadata.
type machineKind struct {
	machines Machines
	kind     identity.Kind   // of the machines: Node or Proxy
	plural   access.Resource // of the documents
}

// machineSpec has no fields: only the labels of a machine can be changed.
type machineSpec struct{}

// machineStatus is what the cluster knows of a machine.
type machineStatus struct {
	ID      identity.MachineID `json:"id"`
	Names   []string           `json:"names,omitempty"` // the public names of a proxy
	Created time.Time          `json:"created"`
	Renewed time.Time          `json:"renewed"` // when its certificates were last issued
}

// document turns a stored machine into a document. It puts the labels into the metadata, where apply reads
// them.
func (k machineKind) document(m state.Stored[state.Machine]) (authrpc.Resource, error) {
	machine := m.Value
	status := machineStatus{
		ID:      machine.ID,
		Names:   machine.Names,
		Created: machine.Created,
		Renewed: machine.Renewed,
	}
	doc, err := document(k.plural.Singular(), machine.Name, m.Revision, machineSpec{}, status)
	doc.Metadata.Labels = machine.Labels
	return doc, err
}

// find returns the machine with that id or that name. Text that has the form of an id is taken for one. A
// machine of another kind is fault NotFound like one that does not exist: the caller may have no grant on its
// kind.
func (k machineKind) find(ctx context.Context, name string) (got state.Stored[state.Machine], err error) {
	if id := identity.MachineID(name); identity.CheckMachineID(id) == nil {
		got, err = k.machines.Machine(ctx, id)
	} else {
		got, err = k.machines.MachineByName(ctx, name)
	}
	if err == nil && got.Value.Kind != k.kind || fault.Is(err, fault.NotFound) {
		return state.Stored[state.Machine]{}, machineUnknown.New("resources", fault.Args{
			"kind":   k.plural.Singular(),
			"name":   name,
			"plural": string(k.plural),
		})
	}
	return got, err
}

func (k machineKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.find(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k machineKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.machines.ListMachines(ctx, k.kind, p)
	return documents(got, err, k.document)
}

// apply changes the labels of a machine. It creates none: machines are added by joining. A node matches
// grants by the labels in its certificate, so the change takes effect when it renews that.
func (k machineKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	// The spec has no fields, so this refuses every key: nothing in it could take effect.
	if err := decodeSpec(doc, &machineSpec{}); err != nil {
		return out, err
	}
	old, err := k.find(ctx, doc.Metadata.Name)
	if err != nil {
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	next := old.Value
	if next.Labels, err = relabel(old.Value.Labels, doc.Metadata.Labels); err != nil {
		return out, err
	}
	if err := by.checkRelabel(nodeOf(old.Value), nodeOf(next)); err != nil {
		return out, err
	}
	e, err := changeEvent(by, k.plural, &old, state.Stored[state.Machine]{Value: next}, k.document)
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the machine was changed since it was read above.
	if _, err := k.machines.ChangeMachine(ctx, old, next, e); err != nil {
		return out, err
	}
	out.Note = "takes effect when the machine renews its certificates"
	out.Resource, err = k.get(ctx, string(next.ID))
	return out, err
}

// relabel returns the labels of a machine after a document with the labels asked was applied to it. What the
// machine says of itself stays: the document repeats it or leaves it out.
func relabel(old, asked identity.Labels) (identity.Labels, error) {
	own, given := old.Self(), identity.Labels{}
	for name, value := range asked {
		if was, isOwn := own[name]; !isOwn || was != value {
			given[name] = value
		}
	}
	if err := join.CheckLabels(given, own); err != nil {
		return nil, err
	}
	maps.Copy(given, own)
	return given, nil
}

// nodeOf returns the machine as the rules see it. A proxy is checked like a node, because its labels too may
// match a grant.
func nodeOf(m state.Machine) access.Node {
	return access.Node{ID: m.ID, Name: m.Name, Labels: m.Labels}
}

// remove removes a machine, locks it and reserves its name. Its certificates are refused everywhere, and can
// no longer be renewed.
func (k machineKind) remove(ctx context.Context, by caller, name string) error {
	m, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	e, err := removalEvent(by, k.plural, m, k.document)
	if err != nil {
		return err
	}
	return k.machines.RemoveMachine(ctx, m, by.by(), e)
}
