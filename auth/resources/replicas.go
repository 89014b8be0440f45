package resources

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// replicaKind reads the replicas of the auth service. A cluster has one, so none can be changed or removed.
type replicaKind struct{ replicas Replicas }

// replicaSpec has no fields: a replica is not described by an administrator.
type replicaSpec struct{}

// replicaStatus is what the cluster knows of a replica.
type replicaStatus struct {
	ID      identity.MachineID `json:"id"`
	Role    state.ReplicaRole  `json:"role"`
	Address string             `json:"address,omitempty"`
	Created time.Time          `json:"created"`
}

func (replicaKind) document(r state.Stored[state.Replica]) (authrpc.Resource, error) {
	replica := r.Value
	status := replicaStatus{
		ID:      replica.ID,
		Role:    replica.Role,
		Address: replica.Address,
		Created: replica.Created,
	}
	return document(access.Replicas.Singular(), r.Key, r.Revision, replicaSpec{}, status)
}

func (k replicaKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.replicas.ReplicaByName(ctx, name)
	if fault.Is(err, fault.NotFound) {
		err = replicaUnknown.Wrap(err, "resources", fault.Args{"name": name})
	}
	return oneDocument(got, err, k.document)
}

func (k replicaKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.replicas.ListReplicas(ctx, p)
	return documents(got, err, k.document)
}

func (k replicaKind) apply(
	ctx context.Context, _ caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	return out, k.refuse(ctx, doc.Metadata.Name)
}

func (k replicaKind) remove(ctx context.Context, _ caller, name string) error {
	return k.refuse(ctx, name)
}

// refuse is the error for a change of the replica: fault NotFound if there is none of that name.
func (k replicaKind) refuse(ctx context.Context, name string) error {
	if _, err := k.get(ctx, name); err != nil {
		return err
	}
	return replicaFixed.New("resources")
}
