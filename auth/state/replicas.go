package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// ReplicaRole is what a replica of the auth service may do. Append only.
type ReplicaRole string

const (
	// VoterRole is for a replica that counts in elections and commits.
	VoterRole ReplicaRole = "voter"
	// ReaderRole and PendingRole are for replicas that only follow, and for those that nobody has admitted
	// yet. A cluster of one replica has none.
	ReaderRole  ReplicaRole = "reader"
	PendingRole ReplicaRole = "pending"
)

// Replica is the record of a replica of the auth service. Its key in the store is its raft id.
type Replica struct {
	ID      identity.MachineID `json:"id"`
	Role    ReplicaRole        `json:"role"`
	Key     []byte             `json:"key,omitempty"`     // PKIX DER; by it the other replicas know this one
	Address string             `json:"address,omitempty"` // host:port at which the others reach it
	Created time.Time          `json:"created"`
}

var replicas = table[Replica]{prefix: "replica/", noun: "replica", remedy: "see: tsh get replicas"}

// ReplicaByName returns the replica with that raft id, or fault NotFound.
func (r *Reader) ReplicaByName(ctx context.Context, name string) (Stored[Replica], error) {
	return replicas.get(ctx, r, name)
}

// ListReplicas returns one page of the replicas, ordered by name.
func (r *Reader) ListReplicas(ctx context.Context, p Page) (Listing[Replica], error) {
	return replicas.list(ctx, r, p)
}

// Replicas adds the replicas of the auth service.
type Replicas struct{ writer }

// Replica returns the machine id of the replica with that raft id. At the first call for a replica it draws a
// new machine id and stores it, with the time now.
func (p *Replicas) Replica(ctx context.Context, name string, now time.Time) (identity.MachineID, error) {
	var id identity.MachineID
	err := retryOnConflict(func() error {
		got, err := replicas.getOrNew(ctx, p.Reader, name)
		if known := got.Revision != 0; err != nil || known {
			id = got.Value.ID
			return err
		}
		var c change
		id = identity.MachineID(NewID())
		replicas.create(&c, name, Replica{ID: id, Role: VoterRole, Created: now.UTC()})
		_, err = p.commit(ctx, &c)
		return err
	})
	return id, err
}
