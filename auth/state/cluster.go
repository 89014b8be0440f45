package state

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Cluster is what a cluster is born with and keeps.
type Cluster struct {
	Name     string    `json:"name"`
	Seal     string    `json:"seal"` // key URI: what opens the sealed secrets below and in the keyring
	Created  time.Time `json:"born"`
	LoginKey []byte    `json:"login_key"` // 32 bytes, sealed as LoginKeySeal: seals login attempts
}

// LoginKeySeal is the name under which the login key is sealed.
const LoginKeySeal = "threshold/login-key/1"

// Replica is an auth replica: its machine id, by the name it has among the members.
type Replica struct {
	ID identity.MachineID `json:"id"`
}

const clusterKey = "self"

const bootstrapRemedy = "run once: threshold start --bootstrap FILE"

var (
	clusters = table[Cluster]{prefix: "cluster/", noun: "cluster", remedy: bootstrapRemedy}
	keyrings = table[json.RawMessage]{prefix: "keyring/", noun: "keyring", remedy: bootstrapRemedy}
	replicas = table[Replica]{
		prefix: "replica/",
		noun:   "auth replica",
		remedy: "start auth with the replica id it was born or joined with",
	}
)

// Cluster returns the cluster's own record; fault NotFound before birth.
func (s *State) Cluster(ctx context.Context) (Cluster, error) {
	got, err := clusters.get(ctx, s, clusterKey)
	return got.Value, err
}

// Replica returns the machine id of the replica; one that was never seen gets one.
func (s *State) Replica(ctx context.Context, replicaID string) (identity.MachineID, error) {
	var id identity.MachineID
	err := retryOnConflict(func() error {
		got, err := replicas.getOrNew(ctx, s, replicaID)
		if err != nil || got.Revision != 0 {
			id = got.Value.ID
			return err
		}
		var c change
		id = identity.MachineID(NewID())
		replicas.create(&c, replicaID, Replica{ID: id})
		_, err = s.commit(ctx, &c)
		return err
	})
	return id, err
}

// InitialRecords is everything a cluster begins with.
type InitialRecords struct {
	Cluster     Cluster
	Keyring     json.RawMessage // keyring's document
	Authorities Authorities     // the first authorities document
	Roles       []access.Role
	Connectors  []NamedConnector
	Events      []audit.Event
}

// NamedConnector is a connector and what it is called.
type NamedConnector struct {
	Name string
	Connector
}

// CreateCluster stores all of it in one transaction, so that a cluster is born whole or not at all; a store
// that holds a cluster is fault Conflict.
func (v *Vault) CreateCluster(ctx context.Context, b InitialRecords) error {
	c := change{
		conflict: fault.New(
			fault.Conflict,
			"state.GiveBirth",
			"this cluster was born already",
			"start without --bootstrap",
		),
	}
	clusters.create(&c, clusterKey, b.Cluster)
	keyrings.create(&c, clusterKey, b.Keyring)
	authorities.create(&c, b.Authorities.key(), b.Authorities)
	for _, r := range b.Roles {
		roles.create(&c, r.Name, r)
	}
	rulesVersions.create(&c, rolesVersionKey, rulesVersion{Time: b.Cluster.Created})
	for _, conn := range b.Connectors {
		sealed, err := v.sealText(connectors.prefix+conn.Name, conn.Secret)
		if err != nil {
			return err
		}
		connectorIssuers.create(&c, conn.Name, issuerRecord{conn.Issuer})
		connectors.create(&c, conn.Name, connectorRecord{Connector: conn.Connector, Sealed: sealed})
	}
	c.appendEvents(b.Events...)
	_, err := v.state.commit(ctx, &c)
	return err
}

// Keyring keeps the keyring's document. It is what ca/keyring calls a Store.
type Keyring struct{ s *State }

// Keyring returns the place of the keyring's document.
func (s *State) Keyring() Keyring { return Keyring{s} }

// Load returns the document, or fault NotFound when the cluster is unborn.
func (k Keyring) Load(ctx context.Context) ([]byte, error) {
	got, err := keyrings.get(ctx, k.s, clusterKey)
	return got.Value, err
}

// Save replaces old by new, or creates new where old is nil; fault Conflict when what is kept is not old.
func (k Keyring) Save(ctx context.Context, old, doc []byte) error {
	have, err := keyrings.getOrNew(ctx, k.s, clusterKey)
	if err != nil {
		return err
	}
	if !bytes.Equal(have.Value, old) {
		return fault.New(fault.Conflict, "state.Keyring", "the keyring changed meanwhile", "load it again")
	}
	var c change
	keyrings.replaceOrCreate(&c, have, doc)
	_, err = k.s.commit(ctx, &c)
	return err
}
